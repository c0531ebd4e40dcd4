"""The keys of secure aggregation by masks: made, shared, and opened for drop-outs.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth, "Practical
Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, against
semi-honest parties. This module makes the keys from which `masking` draws the masks,
and what a server can know of them: `unmask` looks at no secret, only at shares that
survivors reveal.

All arrays are by *place* on the ring of a `graphs.Graph`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Int, UInt32

from ppml_lab import checks, random, trees
from ppml_lab.smpc import field, shamir
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.aggregation import dropouts, graphs
from ppml_lab.smpc.aggregation.dropouts import Alive
from ppml_lab.smpc.field import F61
from ppml_lab.smpc.ring import Wide

GENERATOR = 37
"""A generator of the multiplicative group modulo 2^61 - 1."""

NOTHING, SELF_SEED, SECRET_KEY = 0, 1, 2
"""The kinds of secret that survivors are asked to open of a client."""

_SECRET_KEYS, _SELF_SEEDS, _SHARES = range(3)
_OWN_STREAM, _PAIR_STREAM = range(2)
# Elements that are worked on at once while secrets are opened: they stay in cache.
_BATCH = 2**18


class Setup(NamedTuple):
    """The keys of all clients; nobody in the protocol sees all of them.

    Attributes:
      secret_keys: Exponents, F61.
      public_keys: Powers of `GENERATOR`, F61.
      self_seeds: Seeds of the clients' own masks, F61.
      share_seed: The seed of the coefficients of all sharing polynomials.
    """

    secret_keys: Wide
    public_keys: Wide
    self_seeds: Wide
    share_seed: UInt32[Array, " 2"]


class Unmasking(NamedTuple):
    """All that the server knows besides the uploads.

    Attributes:
      public_keys: Everybody's public keys, F61.
      requested: The kind of secret that each client's neighbours are asked to open:
        `NOTHING`, `SELF_SEED` or `SECRET_KEY`, so never both.
      secrets: The opened secrets, F61; 0 where none was opened.
      dropped: All places, first those of clients that shared and did not upload.
      num_dropped: How many clients shared and did not upload.
      pair_seeds: The streams of masks that `dropped` clients have with each neighbour,
        in the order of `distances`, agreed on with opened secret keys; 0 after the
        first `num_dropped`.
      completed: Whether anybody uploaded and every requested secret was opened.
    """

    public_keys: Wide
    requested: Int[Array, " clients"]
    secrets: Wide
    dropped: Int[Array, " clients"]
    num_dropped: Int[Array, ""]
    pair_seeds: UInt32[Array, "clients degree 2"]
    completed: Bool[Array, ""]


def setup(seed: UInt32[Array, " 2"], graph: graphs.Graph) -> Setup:
    """Draws the keys of all clients for one sum.

    **Guarantee:** none against anybody who computes: logarithms modulo 2^61 - 1 take
    seconds, and the generator is not cryptographic. The algebra is that of the real
    protocol: a mask needs one end's secret key and the other end's public key.

    Args:
      seed: A seed of this sum only: keys that serve twice give two sums away.
      graph: The graph of the clients.

    Raises:
      ValueError: If there is no such graph.
    """
    num_clients = graphs.check(graph).num_clients
    # One draw for both: every random array is a generator to compile.
    streams = random.child(seed, jnp.array([_SECRET_KEYS, _SELF_SEEDS]))
    drawn = F61.uniform(streams, num_clients)
    secret_keys, self_seeds = (Wide(*rows) for rows in zip(*drawn, strict=True))
    return Setup(
        secret_keys=secret_keys,
        public_keys=field.power(F61, rings.from_integers(F61, GENERATOR), secret_keys),
        self_seeds=self_seeds,
        share_seed=random.child(seed, _SHARES),
    )


def own_stream(self_seed: Wide) -> UInt32[Array, "*s 2"]:
    """The seed of a client's own mask."""
    return random.child(jnp.stack(self_seed, axis=-1), _OWN_STREAM)


def pair_stream(secret_key: Wide, public_key: Wide) -> UInt32[Array, "*s 2"]:
    """The seed of the mask that two clients share, by Diffie-Hellman key agreement.

    Either client makes it from its own secret key and the other client's public key.
    """
    agreed = field.power(F61, public_key, secret_key)
    return random.child(jnp.stack(agreed, axis=-1), _PAIR_STREAM)


def distances(graph: graphs.Graph) -> Int[np.ndarray, " degree"]:
    """The distances from a place to its neighbours: 1, 2, ... and then -1, -2, ..."""
    num_offsets, half_last = graphs.offsets(graph)
    ahead = np.arange(1, num_offsets + 1, dtype=np.int32)
    return np.concatenate([ahead, -ahead[: num_offsets - half_last]])


def adds(
    graph: graphs.Graph, place: Array | int, distance: Array | np.ndarray | int
) -> Bool[Array, "..."]:
    """Returns whether `place` adds the mask that it shares with `place + distance`.

    Of two neighbours the one behind adds the mask and the one ahead subtracts it.
    Arguments broadcast.
    """
    distance = jnp.asarray(distance)
    opposite = 2 * distance == graph.num_clients
    return (distance > 0) & ~(opposite & (2 * place >= graph.num_clients))


def pair_seeds(setup: Setup, graph: graphs.Graph) -> UInt32[Array, "offsets clients 2"]:
    """The seeds of the masks that places i and i + 1, i + 2, ... share, once per pair.

    `4 * num_clients * (degree + 1)` bytes: 4 MB for 1,000 clients that all share masks
    with each other, 5 MB for 10,000 with 122 neighbours.
    """

    def at(offset: Int[Array, ""]) -> UInt32[Array, "clients 2"]:
        ahead = jax.tree.map(lambda key: jnp.roll(key, -offset), setup.public_keys)
        return pair_stream(setup.secret_keys, ahead)

    return lax.map(at, jnp.arange(1, graphs.offsets(graph).num_offsets + 1))


def requested(alive: Alive) -> Int[Array, " clients"]:
    """The kind of secret that survivors are asked to open of each client.

    It is the self seed of a client that uploaded, and the secret key of a client that
    shared but did not upload, so never both.

    **Guarantee:** with the self seed the server cannot remove a survivor's pair masks,
    and with the secret key it cannot remove the own mask of a client that seemed to
    drop out, should its upload be late. That holds for honest answers to one request; a
    server that asks some for one secret and others for the other gets both, unless the
    graph's threshold is made for that.
    """
    kept = jnp.where(alive.shared, SECRET_KEY, NOTHING)
    return jnp.where(alive.uploaded, SELF_SEED, kept).astype(jnp.int32)


def unmask(setup: Setup, graph: graphs.Graph, alive: Alive) -> Unmasking:
    """Reconstructs what the server learns from the survivors' shares.

    Each client's two secrets are shared by Shamir's polynomials over F61 among its
    neighbours and itself; the holder at place i has the value at the point i + 1. The
    server reconstructs the secrets that it requests from the first `threshold` shares
    that come back. Shares that nobody reads are not computed, and no table of all
    shares is kept: a few clients are worked on at a time, with about `threshold ** 2`
    products each.

    **Guarantee:** a secret is opened only where `threshold` of its holders are in
    `alive.unmasked`; any fewer shares are uniform whatever the secret. If a secret is
    missing the protocol aborts (`completed`), though the opened secrets stay known.

    Raises:
      ValueError: Unless `alive` and the keys are of the graph's clients.
    """
    dropouts.check(alive, graph.num_clients)
    keys = setup.public_keys.low
    checks.entries("setup.public_keys", keys, graph.num_clients, "clients of the graph")
    kind = requested(alive)
    dropped = kind == SECRET_KEY
    secrets, enough = _opened(setup, graph, alive.unmasked, kind)
    # The sort is stable: dropped clients in the order of their places.
    order = jnp.argsort(~dropped, stable=True).astype(jnp.int32)
    num_dropped = jnp.sum(dropped, dtype=jnp.int32)
    return Unmasking(
        public_keys=setup.public_keys,
        requested=kind,
        secrets=secrets,
        dropped=order,
        num_dropped=num_dropped,
        pair_seeds=_recovered(setup.public_keys, secrets, graph, order, num_dropped),
        completed=jnp.any(alive.uploaded) & jnp.all(enough | (kind == NOTHING)),
    )


def shares(
    setup: Setup,
    graph: graphs.Graph,
    place: Int[Array, ""] | int,
    kind: Int[Array, ""] | int,
    points: Wide,
) -> Wide:
    """The shares of one client's secret that the holders at `points` keep.

    **Guarantee:** fewer shares than the graph's threshold are uniform whatever the
    secret, if the generator's words are: the polynomial has as many coefficients as the
    threshold, and all but the secret are drawn for this client and this kind of secret
    alone.

    Args:
      setup: Everybody's keys.
      graph: Its threshold is how many shares open the secret.
      place: The owner's place.
      kind: `SELF_SEED` or `SECRET_KEY`; for `NOTHING` the shares of a self seed that
        nobody asks for.
      points: The holders' places plus 1, `[holders]`, F61.
    """
    is_key = jnp.asarray(kind) == SECRET_KEY
    secret = jax.tree.map(
        lambda key, own: jnp.where(is_key, key[place], own[place])[None],
        setup.secret_keys,
        setup.self_seeds,
    )
    stream = random.child(setup.share_seed, place, kind)
    coefficients = jax.tree.map(
        lambda first, others: jnp.concatenate([first, others[1:]]),
        secret,
        F61.uniform(stream, graph.threshold),
    )
    return shamir.evaluate(F61, coefficients, points)


def completes(graph: graphs.Graph, alive: Alive) -> Bool[Array, ""]:
    """Returns whether `unmask` will complete, computed without any secret."""
    dropouts.check(alive, graph.num_clients)
    asked = requested(alive) != NOTHING
    answers = alive.unmasked.astype(jnp.int32)
    if graph.degree == graph.num_clients - 1:
        holders = jnp.full_like(answers, jnp.sum(answers, dtype=jnp.int32))
    else:
        steps = jnp.asarray(distances(graph))

        def add(number: Array | int, found: Array) -> Array:
            return found + jnp.roll(answers, -steps[number])

        holders = lax.fori_loop(0, graph.degree, add, answers)
    enough = holders >= graph.threshold
    return jnp.any(alive.uploaded) & jnp.all(enough | ~asked)


def _opened(
    setup: Setup,
    graph: graphs.Graph,
    answers: Bool[Array, " clients"],
    kind: Int[Array, " clients"],
) -> tuple[Wide, Bool[Array, " clients"]]:
    """The secret of the given kind of each client, and whether enough holders answer.

    A secret is 0 where fewer than `threshold` of its holders answer or none is asked
    for.
    """
    num_clients, degree, threshold = graph
    around = np.concatenate([np.zeros(1, np.int32), distances(graph)])

    def readers(holders: Int[Array, " holders"]) -> tuple[Wide, Wide, Array]:
        answering = answers[holders]
        first = jnp.argsort(~answering, stable=True)[:threshold]
        points = holders[first].astype(jnp.uint32) + jnp.uint32(1)
        points = Wide(points, jnp.zeros_like(points))
        weights = shamir.lagrange_weights(F61, points)
        return points, weights, jnp.sum(answering) >= threshold

    # In the complete graph everybody holds shares of everybody.
    is_complete = degree == num_clients - 1
    everywhere = readers(jnp.arange(num_clients)) if is_complete else None

    def open_one(place: Int[Array, ""]) -> tuple[Wide, Bool[Array, ""]]:
        points, weights, enough = everywhere or readers((place + around) % num_clients)
        held = shares(setup, graph, place, kind[place], points)
        opened = shamir.reconstruct(F61, held, weights)
        return trees.where(enough & (kind[place] != NOTHING), opened, 0), enough

    table = threshold if is_complete else threshold**2
    batch_size = min(num_clients, max(1, _BATCH // table))
    # Full batches only: a remainder would be compiled by itself.
    places = jnp.arange(-(-num_clients // batch_size) * batch_size) % num_clients
    opened = lax.map(open_one, places, batch_size=batch_size)
    return jax.tree.map(lambda leaf: leaf[:num_clients], opened)


def _recovered(
    public_keys: Wide,
    secrets: Wide,
    graph: graphs.Graph,
    order: Int[Array, " clients"],
    num_dropped: Int[Array, ""],
) -> UInt32[Array, "clients degree 2"]:
    steps = distances(graph)

    def write(number: Array | int, table: Array) -> Array:
        place = order[number]
        theirs = trees.take(public_keys, (place + steps) % graph.num_clients)
        return table.at[number].set(pair_stream(trees.take(secrets, place), theirs))

    table = jnp.zeros((graph.num_clients, graph.degree, 2), jnp.uint32)
    return lax.fori_loop(0, num_dropped, write, table)
