"""Bits and rounds that are counted are those of parties that exchange arrays."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import random, smpc
from ppml_lab.smpc import (
    arithmetic,
    authenticated,
    comparison,
    cost,
    dropouts,
    field,
    graphs,
    lightsecagg,
    mask_keys,
    private,
    ring,
    shamir,
    sharing,
    transcript,
    truncation,
)

from . import exchanges
from .exchanges import Replicated, Value, Wire, total

SEED = jnp.array([1, 2], jnp.uint32)
X = np.array([[5, -7, 0], [2**40, -(2**40), 12345]], np.int64)
Y = np.array([3, -2, 9], np.int64)
SCHEMES = {
    "additive 2": sharing.additive(2, ring.Z64, 2.0**16),
    "additive 3": sharing.additive(3, ring.Z64, 2.0**16),
    "replicated": sharing.replicated(ring.Z64, 2.0**16),
}
at_length = partial(pytest.param, marks=pytest.mark.exhaustive)


def held(wire, scheme, secret, time=0):
    rows = [wire.drawn(secret.shape) for _ in range(1, scheme.num_parties)]
    rows.insert(0, secret.astype(np.uint64) - total(rows))
    return (Replicated if scheme.kind == "replicated" else Value)(rows, time)


def signed(value):
    return total(value.rows).astype(np.int64)


def agree(recorder, wire, time):
    assert recorder.num_rounds() == time
    for party in {*wire.sent, *wire.received, *recorder.parties()}:
        assert recorder.sent_bits(party) == wire.sent[party], party
        assert recorder.received_bits(party) == wire.received[party], party
        assert recorder.sent_bits(party, offline=True) == wire.offline[party], party
    assert recorder.sent_bits() == wire.sent.total()


def shapes(scheme, *secrets):
    return [
        sharing.Shared(
            jax.eval_shape(
                lambda n=(scheme.num_parties, *secret.shape): ring.zeros(ring.Z64, n)
            ),
            scheme,
        )
        for secret in secrets
    ]


@pytest.mark.parametrize("name", ["replicated", "additive 3", at_length("additive 2")])
def test_primitives(name):
    scheme = SCHEMES[name]
    multiply = exchanges.araki if scheme.kind == "replicated" else exchanges.beaver
    cases: dict[str, tuple[Any, Any, Any]] = {
        "multiply": (arithmetic.multiply, multiply, X * Y),
        "relu": (
            lambda seed, x, y: comparison.relu(seed, x),
            lambda wire, x, y: exchanges.relu(wire, x),
            np.maximum(X, 0),
        ),
        "truncate": (
            lambda seed, x, y: truncation.truncate(seed, x, 16),
            lambda wire, x, y: exchanges.truncated(wire, x, 16),
            X >> 16,
        ),
    }
    for what, (ours, theirs, expected) in cases.items():
        wire = Wire(scheme.num_parties)
        found = theirs(wire, *(held(wire, scheme, secret) for secret in (X, Y)))
        off = signed(found) - expected
        assert off.min() >= 0, what
        assert off.max() <= (what == "truncate"), what
        agree(transcript.priced(ours, SEED, *shapes(scheme, X, Y)), wire, found.time)


@pytest.mark.parametrize(
    "name", ["additive 3", at_length("replicated"), at_length("additive 2")]
)
def test_a_program_whose_branches_do_not_wait(name):
    """Two ReLUs at once, of which one is multiplied further."""
    scheme = SCHEMES[name]
    kind = scheme.kind
    how = private.protocol(kind, num_parties=scheme.num_parties)
    multiply = exchanges.araki if kind == "replicated" else exchanges.beaver
    wire = Wire(scheme.num_parties)
    x, y = (held(wire, scheme, secret) for secret in (X, Y))
    one, other = exchanges.relu(wire, x), exchanges.relu(wire, y)
    product = type(x)(*vars(multiply(wire, one, x)).values())
    found = exchanges.truncated(wire, product, 16)
    assert found.time > max(one.time, other.time) == one.time

    @jax.jit
    def program(x, y):
        with jax.named_scope("first"):
            positive = jax.nn.relu(x)
        with jax.named_scope("second"):
            return positive * x, jax.nn.relu(y)

    recorder = transcript.priced(
        lambda *args: private.evaluate(how, SEED, program, *args),
        *shapes(how.scheme, X, Y),
    )
    agree(recorder, wire, found.time)
    # While the first works the second does too, and then alone.
    assert recorder.num_rounds("first") == one.time
    assert recorder.num_rounds("second") == found.time
    assert recorder.num_rounds("second/truncate") == found.time - product.time


LOOPS = {
    "nothing of the step before": (lambda x: jax.lax.map(jax.nn.relu, x), 9),
    "a sum of what is done at once": (
        lambda x: jax.lax.scan(lambda c, v: (c + jax.nn.relu(v), v), x[0], x)[0],
        9,
    ),
    "one after the other": (
        lambda x: jax.lax.scan(lambda c, v: (jax.nn.relu(c + v), v), x[0], x)[0],
        4 * 9,
    ),
    "of some steps after the others": (
        lambda x: jax.lax.map(
            lambda v: jax.lax.fori_loop(0, 3, lambda _, c: c * c, v), x
        ),
        3 * 2,
    ),
    "branches": (lambda x: (x == 1, jnp.maximum(x, 0), jnp.minimum(x, 0)), 9),
    "attention": (
        lambda x: (x @ x.T) @ (x @ x.T @ x),
        3 * 2,
    ),
    "a ReLU and its derivative": (
        lambda x: jax.vjp(jax.nn.relu, x)[1](x @ jnp.ones((3, 3)))[0],
        9,
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_rounds_are_the_depth_of_the_data_flow(name):
    """By hand: a ReLU takes nine rounds, a product and its truncation two."""
    function, depth = LOOPS[name]
    how = private.protocol("additive", ideal=True)
    x = sharing.Shared(
        jax.eval_shape(lambda: ring.zeros(ring.Z64, (1, 4, 3))), how.scheme
    )
    recorder = transcript.priced(lambda x: private.evaluate(how, SEED, function, x), x)
    assert recorder.num_rounds() == depth


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("replicated", "client"),
        ("additive 3", 1),
        at_length("additive 2", "client"),
        at_length("additive 2", 0),
        at_length("replicated", 1),
    ],
)
def test_inputs_are_seeds_and_one_summand(name, owner):
    """What a party holds follows from what it was sent, for trees of values too."""
    scheme = SCHEMES[name]
    how = private.protocol(scheme.kind, num_parties=scheme.num_parties)
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(5)}
    shared = jax.jit(lambda: private.share(how, SEED, tree, owner=owner))()
    seeds = sharing.party_seeds(SEED, how.scheme)
    corrected = 0 if owner == "client" else owner
    wire = Wire(scheme.num_parties)
    for party in wire.parties:
        numbers = sharing.held(scheme, party)
        for number in numbers if party != owner else ():
            if number != corrected:
                wire.send(owner, party, seeds[number], 256 // 2)
        for place, leaf in enumerate(shared.values()):
            rows = sharing.view(leaf, party)
            for number, row in zip(numbers, rows, strict=True):
                if number == corrected:
                    if party != owner:
                        wire.send(owner, party, row.low)
                    continue
                stream = random.child(seeds[number], place)
                again = ring.Z64.uniform(stream, row.low.size)
                np.testing.assert_array_equal(row.low.reshape(-1), again.low)
                np.testing.assert_array_equal(row.high.reshape(-1), again.high)
    decoded = private.decode(how, ring.Z64.sum_over(shared["a"].shares, 0))
    np.testing.assert_array_equal(decoded, tree["a"])
    recorder = transcript.priced(
        lambda seed: private.share(how, seed, tree, owner=owner), SEED
    )
    agree(recorder, wire, 1)


@pytest.mark.parametrize("owner", [3, -1, True])
def test_only_parties_and_named_owners_share(owner):
    with pytest.raises(ValueError, match="owner must be a party's number, from 0 to 2"):
        private.share(private.protocol(), SEED, jnp.ones(2), owner=owner)


def test_a_vector_for_several_servers_goes_up_once():
    num_parties, length = 3, 13
    aggregator = smpc.additive_sharing(num_parties, 5, 1.0)
    key = jax.random.key(0)
    update = jnp.linspace(-1.0, 1.0, length)
    everyone = jnp.ones(5, bool)
    session = aggregator.begin(key, everyone, everyone, jnp.inf)
    message = jax.jit(aggregator.encode)(key, session, jnp.int32(0), update)
    # A server that has its seed has its share.
    scheme = sharing.additive(num_parties)
    seeds = sharing.party_seeds(random.seed(jax.random.split(key)[1]), scheme)
    again = random.words(seeds, length)
    np.testing.assert_array_equal(message[1:], again[1:])
    sent = message[0].nbytes + (num_parties - 1) * 32
    assert aggregator.cost(length).uplink_bytes == sent == 4 * length + 64
    messages = cost.additive_sharing(num_parties, length, 32, num_clients=4)
    # The servers' sums are as long as a share; the first one hears four clients.
    assert cost.traffic(messages) == (sent, 0, 4 * 4 * length + 4 * 4 * length, 2)
    whole = cost.additive_sharing(num_parties, length, 32, compressed=False)
    assert cost.traffic(whole).uplink_bytes == message.nbytes


@pytest.mark.exhaustive
def test_authenticated_products():
    key = authenticated.mac_key(SEED, 3, field.F61)
    secret = ring.from_integers(field.F61, [3, 4])

    def run(seed, secret):
        x = authenticated.authenticate(seed, secret, key)
        product, masked = authenticated.multiply(seed, x, x, key)
        opened = authenticated.open_values(product, name="product")
        return authenticated.check(seed, [*masked, opened], key)

    wire = Wire(3)
    element = np.zeros(2)
    for array, width in (
        (element, 61),  # Both masked operands,
        (element, 61),
        (element, 61),  # the product,
        (np.zeros(1), 256),  # a commitment,
        (np.zeros(1), 61),  # and what was committed to.
    ):
        for one in wire.parties:
            for other in (p for p in wire.parties if p != one):
                wire.send(one, other, array, width)
    # Corrections of the product's shares and of the MACs of all three.
    wire.deal(np.zeros((4, 2)), 61)
    agree(transcript.priced(run, SEED, secret), wire, 4)


def relayed(wire, sender, receiver, array, width):
    """From client to client by the server, under a key that they have agreed on."""
    wire.send(sender, "server", array, width)
    return wire.send("server", receiver, array, width)


def summed(wire, messages, staying):
    for client in staying:
        assert cost.sent_bits(messages, "client") == wire.sent[client]
        assert cost.received_bits(messages, "client") == wire.received[client]
    assert cost.sent_bits(messages, "server") == wire.sent["server"]
    assert cost.received_bits(messages, "server") == wire.received["server"]
    assert sum(m.num_bits * m.num_senders for m in messages) == wire.sent.total()


@pytest.mark.exhaustive
@pytest.mark.parametrize("degree", [4, 2])
def test_pairwise_masks(degree):
    """What holders send opens each client's secret that is asked for."""
    n, length, dropped = 5, 6, [3]
    graph = graphs.Graph(n, degree, 2 if degree == 2 else 3)
    staying = [client for client in range(n) if client not in dropped]
    here = jnp.ones(n, bool)
    stays = here.at[jnp.array(dropped)].set(False)
    alive = dropouts.nested(here, here, stays, stays)
    keys = jax.jit(partial(mask_keys.setup, graph=graph))(SEED)
    opened = jax.jit(lambda keys: mask_keys.unmask(keys, graph, alive))(keys)
    around = [0, *map(int, mask_keys.distances(graph))]
    holders = np.array([[(i + step) % n for step in around] for i in range(n)])

    @jax.jit
    def all_shares(keys):
        def of(place, kind, secret):
            stream = random.child(keys.share_seed, place, kind)
            drawn = field.F61.uniform(stream, graph.threshold)
            return jax.tree.map(lambda d, s: d.at[0].set(s[place]), drawn, secret)

        def at(place, points):
            polynomials = [
                of(place, mask_keys.SELF_SEED, keys.self_seeds),
                of(place, mask_keys.SECRET_KEY, keys.secret_keys),
            ]
            columns = jax.tree.map(lambda *p: jnp.stack(p, -1), *polynomials)
            return shamir.evaluate(field.F61, columns, points)

        points = jnp.asarray(holders + 1, jnp.uint32)
        return jax.vmap(at)(jnp.arange(n), ring.Wide(points, jnp.zeros_like(points)))

    shares = ring.to_integers(field.F61, all_shares(keys))
    public = ring.to_integers(field.F61, keys.public_keys)
    wire = Wire(n)
    for client in range(n):
        # A second key encrypts shares: there is none in the emulation.
        wire.send(client, "server", [public[client], 0], 61)
        for other in holders[client][1:]:
            wire.send("server", int(other), [public[client], 0], 61)
    for client in range(n):
        for place, other in enumerate(holders[client][1:], 1):
            relayed(wire, client, int(other), shares[client, place], 61)
    for client in staying:
        wire.send(client, "server", np.zeros(length), 32)
    asked = np.asarray(opened.requested)
    secrets = ring.to_integers(field.F61, opened.secrets)
    for client in range(n):
        answers = {
            int(holder) + 1: wire.send(
                int(holder), "server", shares[client, place, asked[client] - 1], 61
            )
            for place, holder in enumerate(holders[client])
            if holder in staying
        }
        points = list(answers)[: graph.threshold]
        weights = ring.to_integers(
            field.F61, shamir.lagrange_weights(field.F61, points)
        )
        found = sum(w * answers[p] for w, p in zip(weights, points, strict=True))
        assert found % field.F61.modulus == secrets[client]
    messages = cost.bonawitz(
        graph, length, 32, num_dropped=len(dropped), key_bits=61, share_bits=61
    )
    assert cost.num_rounds(messages) == 4
    summed(wire, messages, staying)


@pytest.mark.exhaustive
def test_coded_masks():
    """The answers of those who stay, and nothing else, remove the masks."""
    code, length, staying = lightsecagg.Code(5, 3, 1), 7, [0, 1, 3, 4]
    pieces = jax.jit(
        lambda: jax.vmap(
            lambda place: lightsecagg.coded_mask(SEED, code, place, length)
        )(jnp.arange(5))
    )()
    masks = [lightsecagg.client_mask(SEED, place, length) for place in staying]
    wire, bits = Wire(5), field.F31.bits
    for client in range(5):
        for other in (place for place in range(5) if place != client):
            relayed(wire, client, other, pieces[client, other], bits)
    for client in staying:
        wire.send(client, "server", masks[0], bits)
    answers = [
        wire.send(
            client,
            "server",
            field.F31.sum_over(pieces[jnp.array(staying), client], 0),
            bits,
        )
        for client in staying
    ]
    first = jnp.array(staying[: code.surviving])
    held = jnp.stack(answers[: code.surviving])
    found = lightsecagg.decoded(code, first, held, length)
    expected = field.F31.sum_over(jnp.stack(masks), 0)
    np.testing.assert_array_equal(found, expected)
    messages = cost.light_secagg(*code, length, bits, num_dropped=1)
    summed(wire, messages, staying)
    assert cost.num_rounds(messages) == 3
