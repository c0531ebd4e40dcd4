"""Secure aggregation by masks that cancel: clients' uploads and the server's unmasking.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth, "Practical
Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, with the
k-regular graph of Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure Single-Server
Aggregation with (Poly)Logarithmic Overhead", CCS 2020. Client i uploads

    y_i = x_i + PRG(b_i) + sum of PRG(s_ij) over neighbours j ahead
                         - sum of PRG(s_ij) over neighbours j behind

in a ring, where *ahead* is on the ring of places: which client of a pair adds the mask
is a convention. Keys, and who may learn which, are in `mask_keys`.

Vectors are worked on in chunks of coordinates, so that memory is that of one chunk of
all clients; the same bits come out under any chunking and on any number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Int, Integer, UInt32

from ppml_lab import arguments, checks, random, trees
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.aggregation import dropouts, graphs, mask_keys
from ppml_lab.smpc.aggregation.dropouts import Alive
from ppml_lab.smpc.aggregation.mask_keys import Setup, Unmasking
from ppml_lab.smpc.ring import Element, Ring

CHUNK = random.BLOCK
"""Coordinates that are worked on at once."""

Block = Integer[Array, ""] | int


class Outcome(NamedTuple):
    """The outcome of a run, as the server gets it.

    Attributes:
      total: The sum of the inputs of all clients that uploaded; zeros if not
        `completed`.
      completed: Whether the protocol completed.
    """

    total: Element
    completed: Bool[Array, ""]


class Transcript(NamedTuple):
    """The server's view of some coordinates in a run.

    Attributes:
      uploads: `[clients, length]`, zeros for those that did not upload.
      removed: `[length]`, the masks that the server subtracts from the uploads' sum.
    """

    uploads: Element
    removed: Element


def client_mask(
    setup: Setup,
    graph: graphs.Graph,
    shared: Bool[Array, " clients"],
    place: Int[Array, ""] | int,
    length: int,
    first_block: Block = 0,
    ring: Ring = rings.Z32,
) -> Element:
    """The sum of all masks that one client adds to its input: `length` elements.

    The client agrees on its keys here and holds a few masks at a time, so that clients
    can be worked on one by one inside a compiled round. All clients together then draw
    each pair's mask twice; `masked_inputs` draws it once.

    Args:
      setup: Only this client's secrets and everybody's public keys are read.
      graph: Who the neighbours are.
      shared: `Alive.shared`, what the server tells clients before they mask.
      place: The client's place.
      length: How many coordinates.
      first_block: Where the coordinates begin, in blocks of `random.BLOCK`.
      ring: The ring in which masks are uniform.
    """
    checks.entries("shared", shared, graph.num_clients, "clients of the graph")
    place, steps = jnp.asarray(place), jnp.asarray(mask_keys.distances(graph))
    others = (place + steps) % graph.num_clients
    seeds = mask_keys.pair_stream(
        trees.take(setup.secret_keys, place), trees.take(setup.public_keys, others)
    )
    signs = jnp.where(mask_keys.adds(graph, place, steps), 1, -1)
    signs = jnp.where(shared[place] & shared[others], signs, 0)
    own = mask_keys.own_stream(trees.take(setup.self_seeds, place))
    return sum_of_masks(
        ring,
        jnp.concatenate([own[None], seeds]),
        jnp.concatenate([jnp.ones_like(signs[:1]), signs]),
        length,
        first_block,
    )


def masked_inputs(
    setup: Setup,
    seeds: UInt32[Array, "offsets clients 2"],
    graph: graphs.Graph,
    inputs: Element,
    alive: Alive,
    first_block: Block = 0,
    ring: Ring = rings.Z32,
) -> Element:
    """All clients' uploads of `length` coordinates, with each pair's mask drawn once.

    **Guarantee:** each row is its input plus the client's own mask and one mask per
    neighbour: to anybody who lacks any one of these masks the row is uniform whatever
    the input, if the generator's words are. The emulation's masks are not safe from an
    opponent that computes (`mask_keys.setup`).

    Args:
      setup: Only the seeds of the clients' own masks are read.
      seeds: `mask_keys.pair_seeds`, which do not depend on the chunk.
      graph: Who shares masks with whom.
      inputs: `[clients, length]`.
      alive: Clients in `shared` share masks, clients in `uploaded` send rows.
      first_block: Where these coordinates begin, in blocks of `random.BLOCK`.
      ring: The ring of the inputs.

    Returns:
      `[clients, length]`, zeros for those that did not upload.

    Raises:
      ValueError: Unless `inputs` and `alive` have a row for each client of the graph.
    """
    dropouts.check_inputs(inputs, alive, graph.num_clients)
    checks.entries("seeds", seeds, graphs.offsets(graph).num_offsets, "offsets")
    length = rings.shape_of(inputs)[1]
    own = ring.uniform(mask_keys.own_stream(setup.self_seeds), length, first_block)
    places = jnp.arange(graph.num_clients)

    def add(number: Array | int, carry: tuple[Element, Array]) -> tuple[Element, Array]:
        masked, ahead = carry
        offset = number + 1
        meets = alive.shared & ahead & mask_keys.adds(graph, places, offset)
        masks = trees.where(meets, ring.uniform(seeds[number], length, first_block), 0)
        rolled = jax.tree.map(lambda leaf: jnp.roll(leaf, offset, axis=0), masks)
        masked = ring.subtract(ring.add(masked, masks), rolled)
        # Who is ahead is carried along: XLA would look it up for every coordinate.
        return masked, jnp.roll(ahead, -1)

    start = (ring.add(inputs, own), jnp.roll(alive.shared, -1))
    masked, _ = lax.fori_loop(0, len(seeds), add, start)
    return trees.where(alive.uploaded, masked, 0)


def mask_of_sum(
    unmasking: Unmasking,
    graph: graphs.Graph,
    alive: Alive,
    length: int,
    first_block: Block = 0,
    ring: Ring = rings.Z32,
) -> Element:
    """The masks that are left in the sum of the uploads: `length` elements.

    Only opened secrets and public keys are used. Clients that uploaded leave their own
    masks, clients that dropped out the masks that they share with clients that
    uploaded. The time grows with `(clients + dropped * degree) * length`, the memory is
    bounded.

    Args:
      unmasking: What the server knows; if not `completed` the result is useless.
      graph: Who shares masks with whom.
      alive: Who uploaded.
      length: How many coordinates.
      first_block: Where the coordinates begin, in blocks of `random.BLOCK`.
      ring: The ring of the uploads.
    """
    dropouts.check(alive, graph.num_clients)
    steps = jnp.asarray(mask_keys.distances(graph))

    def of_dropped(number: Array | int, total: Element) -> Element:
        place = unmasking.dropped[number]
        # The neighbour subtracts where this one would have added.
        signs = jnp.where(mask_keys.adds(graph, place, steps), -1, 1)
        there = alive.uploaded[(place + steps) % graph.num_clients]
        signs = jnp.where(there, signs, 0)
        seeds = unmasking.pair_seeds[number]
        masks = sum_of_masks(ring, seeds, signs, length, first_block)
        return ring.add(total, masks)

    own = mask_keys.own_stream(unmasking.secrets)
    signs = alive.uploaded.astype(jnp.int32)
    total = sum_of_masks(ring, own, signs, length, first_block)
    return lax.fori_loop(0, unmasking.num_dropped, of_dropped, total)


@arguments.checked
def run(
    seed: UInt32[Array, " 2"],
    graph: graphs.Graph,
    inputs: Element | Callable[[Int[Array, ""]], Element],
    alive: Alive,
    *,
    ring: Ring = rings.Z32,
    chunk: int = CHUNK,
    num_chunks: int | None = None,
    mesh: Mesh | None = None,
) -> Outcome:
    """Runs the whole protocol of secure aggregation by masks.

    **Guarantee:** the total is the exact sum over `alive.uploaded` in the ring, made of
    nothing but uploads, public keys and what survivors open, or the protocol aborts. A
    semi-honest server with corrupt clients within the bounds of the graph learns this
    sum only. The emulation does the arithmetic of one honest run: there is no network,
    no signature, and keys too small to be safe (`mask_keys.setup`).

    Args:
      seed: A seed of this run only.
      graph: Who shares masks with whom, and how many shares open a secret.
      inputs: `[clients, length]` by place, or a function from the number of a chunk to
        its `[clients, chunk]`, so that not all need be held at once.
      alive: Who drops out when.
      ring: The ring of the inputs.
      chunk: Coordinates at a time, a multiple of `random.BLOCK`. Memory is a few times
        that of `[clients, chunk]` elements.
      num_chunks: How many chunks, where `inputs` is a function.
      mesh: Devices that chunks are dealt to; one device if None. Changes no bit.

    Returns:
      The total, `[length]` as the inputs or `[num_chunks * chunk]`.

    Raises:
      ValueError: For a bad graph, a chunk that is no multiple of `random.BLOCK`, or
        `num_chunks` without a function or a function without it.
    """
    if chunk < 1 or chunk % random.BLOCK:
        raise ValueError(f"chunk must be a multiple of {random.BLOCK}, got {chunk}")
    if callable(inputs) != (num_chunks is not None):
        raise ValueError(
            "num_chunks must be given exactly when inputs is a function of a chunk's "
            f"number, got num_chunks {num_chunks} and inputs of type "
            f"{type(inputs).__name__}"
        )
    if num_chunks is None:
        dropouts.check_inputs(inputs, alive, graph.num_clients)
    keys = mask_keys.setup(seed, graph)
    seeds = mask_keys.pair_seeds(keys, graph)
    unmasking = mask_keys.unmask(keys, graph, alive)
    length = None if callable(inputs) else rings.shape_of(inputs)[1]
    take = inputs if length is None else _chunks(inputs, chunk)

    def total_of(number: Array) -> Element:
        begin = number * (chunk // random.BLOCK)
        uploads = masked_inputs(keys, seeds, graph, take(number), alive, begin, ring)
        removed = mask_of_sum(unmasking, graph, alive, chunk, begin, ring)
        return ring.subtract(ring.sum_over(uploads, 0), removed)

    count = num_chunks if length is None else -(-length // chunk)
    totals = jax.tree.map(
        lambda leaf: leaf[:count], _dealt(total_of, jnp.arange(count), mesh)
    )
    total = jax.tree.map(lambda leaf: leaf.reshape(-1)[:length], totals)
    return Outcome(trees.where(unmasking.completed, total, 0), unmasking.completed)


def transcript(
    seed: UInt32[Array, " 2"],
    graph: graphs.Graph,
    inputs: Element,
    alive: Alive,
    first_block: Block = 0,
    *,
    ring: Ring = rings.Z32,
) -> tuple[Transcript, Unmasking]:
    """All that the server of `run` with the same seed sees of some coordinates.

    Args:
      seed: The run's seed.
      graph: Who shares masks with whom.
      inputs: `[clients, length]`, the coordinates that begin at `first_block`.
      alive: Who drops out when.
      first_block: In blocks of `random.BLOCK`.
      ring: The ring of the inputs.

    Raises:
      ValueError: As for `masked_inputs`.
    """
    dropouts.check_inputs(inputs, alive, graph.num_clients)
    keys = mask_keys.setup(seed, graph)
    seeds = mask_keys.pair_seeds(keys, graph)
    unmasking = mask_keys.unmask(keys, graph, alive)
    length = rings.shape_of(inputs)[1]
    uploads = masked_inputs(keys, seeds, graph, inputs, alive, first_block, ring)
    removed = mask_of_sum(unmasking, graph, alive, length, first_block, ring)
    return Transcript(uploads, removed), unmasking


def ideal_transcript(
    seed: UInt32[Array, " 2"],
    total: Element,
    uploaded: Bool[Array, " clients"],
    first_block: Block = 0,
    *,
    ring: Ring = rings.Z32,
) -> Transcript:
    """Uploads as the server sees them, drawn from the sum alone: one draw per client.

    **Guarantee:** this transcript has the same distribution as that of `transcript`,
    whose uploads are uniform and independent, as each client's own mask is, and whose
    removed masks are the uploads' sum less the total. Nothing else of the inputs goes
    in, so nothing else can come out. No keys belong to this transcript: it does not
    show which seeds the removed masks were drawn from.

    Args:
      seed: A seed of this transcript only.
      total: `[length]`, the sum of the inputs of those that uploaded.
      uploaded: `Alive.uploaded`.
      first_block: Where these coordinates begin, in blocks of `random.BLOCK`.
      ring: The ring of the total.
    """
    length = rings.shape_of(total)[0]
    streams = random.child(seed, jnp.arange(len(uploaded)))
    uploads = trees.where(uploaded, ring.uniform(streams, length, first_block), 0)
    return Transcript(uploads, ring.subtract(ring.sum_over(uploads, 0), total))


def _dealt(
    function: Callable[[Array], Element], numbers: Int[Array, " n"], mesh: Mesh | None
) -> Element:
    """`function` of every number, stacked; surplus rows may follow."""

    def in_turn(numbers: Array) -> Element:
        return lax.map(function, numbers)

    if mesh is None:
        return in_turn(numbers)
    dealt = PartitionSpec(mesh.axis_names)
    # Numbers that fill up the last device's share come once more.
    again = jnp.resize(numbers, (-(-len(numbers) // mesh.size) * mesh.size,))
    return jax.shard_map(
        in_turn, mesh=mesh, in_specs=dealt, out_specs=dealt, check_vma=False
    )(again)


def _chunks(inputs: Element, chunk: int) -> Callable[[Int[Array, ""]], Element]:
    def take(number: Array) -> Element:
        return jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, number * chunk, chunk, axis=1),
            padded,
        )

    missing = -rings.shape_of(inputs)[1] % chunk
    padded = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, missing))), inputs)
    return take


def sum_of_masks(
    ring: Ring,
    seeds: UInt32[Array, "masks 2"],
    signs: Int[Array, " masks"],
    length: int,
    first_block: Block = 0,
) -> Element:
    """The sum of masks times their signs.

    Args:
      ring: The ring in which masks are uniform.
      seeds: The seed of each mask.
      signs: 1, -1, or 0 for none.
      length: How many coordinates.
      first_block: Where the coordinates begin, in blocks of `random.BLOCK`.

    Returns:
      Elements `[length]`.
    """

    def draw(seed: Array) -> Element:
        # Whole blocks: a generator that stops inside one is not vectorised.
        whole = -(-length // random.BLOCK) * random.BLOCK
        return ring.uniform(seed, whole, first_block)

    def add(carry: tuple[Element, Element], row: tuple[Array, Array]) -> Any:
        total, mask = carry
        sign, next_seed = row
        negated = ring.subtract(ring.subtract(mask, mask), mask)
        signed = trees.where(sign > 0, mask, trees.where(sign < 0, negated, 0))
        return (ring.add(total, signed), draw(next_seed)), None

    # The next mask is drawn while this one is added, so that the choice of a sign is
    # not compiled into the generator, which on CPU would be 7 times slower for it.
    first = draw(seeds[0])
    start = (ring.subtract(first, first), first)
    (total, _), _ = lax.scan(add, start, (signs, jnp.roll(seeds, -1, axis=0)))
    return jax.tree.map(lambda leaf: leaf[:length], total)
