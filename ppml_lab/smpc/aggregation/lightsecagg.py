"""Secure aggregation by coded masks: the sum of all masks is recovered in one step.

So, He, Yang, Li, Yu, Ali, Guler, Avestimehr, "LightSecAgg: a Lightweight and Versatile
Design for Secure Aggregation in Federated Learning", MLSys 2022. Client i uploads its
input plus a uniform mask z_i over a prime field. Before that it cuts z_i into U - T
pieces, appends T uniform ones, and gives client j the value at a point alpha_j of the
polynomial of degree U - 1 that has these pieces as its values at points beta_1, ...,
beta_U. Each client that is still there at the end sends the server one vector, the sum
of the pieces that it holds of clients that uploaded. These vectors are values of the
sum of the polynomials, so any U vectors give the sum of the masks and nothing else.

A drop-out costs the same however many there are: nobody's secret is opened.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Int, UInt32

from ppml_lab import arguments, checks, random, trees
from ppml_lab.smpc import field as fields
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import shamir
from ppml_lab.smpc.aggregation import dropouts
from ppml_lab.smpc.aggregation.dropouts import Alive
from ppml_lab.smpc.aggregation.masking import Outcome
from ppml_lab.smpc.field import F31, F61
from ppml_lab.smpc.ring import Element, Ring, Wide

Seed = UInt32[Array, " 2"]

_MASK, _PRIVACY = range(2)
_UPLOADS, _UNKNOWN_PIECES = range(2)


class Code(NamedTuple):
    """The code by which masks are cut and coded.

    Attributes:
      num_clients: N, at least 3.
      surviving: U, how many must stay to the end.
      privacy: T, how many may collude with the server, below U.
    """

    num_clients: int
    surviving: int
    privacy: int


class Transcript(NamedTuple):
    """The server's view of a run; with `decoded` the server removes the masks.

    Attributes:
      uploads: `[clients, length]`, zeros for those that did not upload.
      holders: The places whose answers are used: the first U that answered, in order.
      answers: `[U, piece]`, the sums that these sent; zeros for those that did not.
    """

    uploads: Element
    holders: Int[Array, " surviving"]
    answers: Element


def check(code: Code) -> Code:
    """Returns `code`, if there is such a code.

    Raises:
      ValueError: For fewer than 3 clients, or unless 0 <= T < U <= N.
    """
    num_clients, surviving, privacy = code
    # With two clients, each learns the other's input from the sum.
    checks.at_least("num_clients", num_clients, 3)
    checks.at_least("privacy", privacy, 0)
    if not privacy < surviving <= num_clients:
        raise ValueError(
            f"surviving must lie above privacy {privacy} and be at most num_clients "
            f"{num_clients}, got {surviving}; choose surviving in this range, or lower "
            "privacy"
        )
    return code


def field_of_sum(num_clients: int, input_bits: int) -> Ring:
    """The smallest field here that holds the sum of `num_clients` inputs.

    Args:
      num_clients: N.
      input_bits: Bits of an entry of an input, which is not negative.

    Raises:
      ValueError: If no field does, or an argument is not at least 1.
    """
    checks.at_least("num_clients", num_clients, 1)
    checks.at_least("input_bits", input_bits, 1)
    largest = num_clients * (2**input_bits - 1)
    for candidate in (F31, F61):
        if largest < candidate.modulus:
            return candidate
    fits = ((F61.modulus - 1) // num_clients + 1).bit_length() - 1
    raise ValueError(
        f"input_bits {input_bits} for {num_clients} clients makes a sum of "
        f"{largest.bit_length()} bits, more than {F61.name} holds; take input_bits at "
        f"most {fits}"
    )


def piece_length(code: Code, length: int) -> int:
    """The length of each of the U - T pieces that a mask of `length` is cut into."""
    return -(-length // (check(code).surviving - code.privacy))


def client_mask(
    seed: Seed, place: Int[Array, ""] | int, length: int, field: Ring = F31
) -> Element:
    """The mask that one client adds to its input: `length` uniform elements.

    Args:
      seed: A seed of this sum only: masks that serve twice give a difference of inputs
        away.
      place: The client's place.
      length: How many coordinates.
      field: `field.F31` or `field.F61`.
    """
    return _uniform(random.child(seed, place, _MASK), length, field)


def coded_mask(
    seed: Seed, code: Code, place: Int[Array, ""] | int, length: int, field: Ring = F31
) -> Element:
    """The coded pieces of a client's mask: one for each other client, one kept.

    **Guarantee:** any `privacy` rows are uniform and independent of the mask, if the
    generator's words are; the mask is a linear function of any `surviving` rows.

    Args:
      seed: As in `client_mask`.
      code: How many pieces there are.
      place: The client's place.
      length: The mask's length.
      field: The mask's field.

    Returns:
      `[clients, piece]`, row j for the client at place j.

    Raises:
      ValueError: If there is no such code.
    """
    mask = client_mask(seed, place, length, field)
    return _coded(seed, code, place, mask, field)


def encode(code: Code, pieces: Element, field: Ring = F31) -> Element:
    """The values, at all clients' points, of the polynomial through `pieces`.

    Args:
      code: The code that has these points.
      pieces: `[surviving, piece]`: those of the mask, and then `privacy` uniform ones.
      field: The field of the pieces.

    Returns:
      `[clients, piece]`.
    """
    for part in jax.tree.leaves(pieces) or [None]:
        checks.entries("pieces", part, check(code).surviving, "pieces of a mask")
    weights = shamir.lagrange_weights(field, _piece_points(code), _client_points(code))
    # The product cuts them into limbs: they must not be drawn again for each limb.
    return fields.matmul(field, weights, lax.optimization_barrier(pieces))


def completes(code: Code, alive: Alive) -> Bool[Array, ""]:
    """Returns whether any client uploaded and enough clients answered."""
    dropouts.check(alive, code.num_clients)
    answers = jnp.sum(alive.unmasked, dtype=jnp.int32)
    return jnp.any(alive.uploaded) & (answers >= check(code).surviving)


def first_answers(
    code: Code, answers: Bool[Array, " clients"]
) -> Int[Array, " surviving"]:
    """The places of the first U clients that answer; others follow if fewer answer."""
    checks.entries("answers", answers, code.num_clients, "clients of the code")
    places = jnp.argsort(~answers, stable=True).astype(jnp.int32)
    return places[: check(code).surviving]


def decoded(
    code: Code,
    holders: Int[Array, " surviving"],
    answers: Element,
    length: int,
    field: Ring = F31,
) -> Element:
    """The sum of the masks, `[length]`, decoded from `answers` `[surviving, piece]`.

    The answers are those of the clients at the places `holders`, which may be traced
    and must be distinct.
    """
    checks.entries("holders", holders, code.surviving, "answers used")
    for part in jax.tree.leaves(answers):
        checks.entries("answers", part, code.surviving, "answers used")
    numbers = holders.astype(jnp.uint32) + jnp.uint32(_client_points(code)[0])
    points = field.from_unsigned(Wide(numbers, jnp.zeros_like(numbers)))
    targets = _piece_points(code)[: code.surviving - code.privacy]
    weights = shamir.lagrange_weights(field, points, targets)
    pieces = fields.matmul(field, weights, answers)
    return jax.tree.map(lambda leaf: leaf.reshape(-1)[:length], pieces)


def mask_of_sum(
    code: Code,
    answers: Bool[Array, " clients"],
    summed_pieces: Element,
    length: int,
    field: Ring = F31,
) -> Element:
    """The masks that the server subtracts from the sum of the uploads, `[length]`.

    Args:
      code: How masks are coded.
      answers: Who answers, `Alive.unmasked`. If fewer than U do, the result is useless.
      summed_pieces: `[clients, piece]`: for each client, the sum of the coded pieces
        that it holds of all clients that uploaded. Only the rows of the first U clients
        that answer are looked at.
      length: The length of a mask.
      field: The field of the masks.

    Raises:
      ValueError: If there is no such code.
    """
    for part in jax.tree.leaves(summed_pieces):
        checks.entries("summed_pieces", part, code.num_clients, "clients of the code")
    holders = first_answers(code, answers)
    return decoded(code, holders, trees.take(summed_pieces, holders), length, field)


@arguments.checked
def run(
    seed: Seed, code: Code, inputs: Element, alive: Alive, field: Ring = F31
) -> Outcome:
    """Runs the whole protocol: clients' uploads and answers, and the server's decoding.

    Clients are worked on one after the other, so that besides inputs and uploads there
    are two arrays `[clients, piece]` at a time: the pieces of one client and the
    holders' sums.

    **Guarantee:** any `privacy` clients that collude with the server learn the sum over
    those that uploaded, which with their own inputs is the sum over the others, and
    nothing else, if all follow the protocol. A server that asks some holders for one
    sum and others for another learns more. If fewer than `surviving` answer, what they
    sent may still say something about the sum, and about nothing else. The emulation
    has no network, one memory for all, and a generator that is not cryptographic.

    Args:
      seed: A seed of this sum only.
      code: How masks are coded.
      inputs: `[clients, length]`, elements of the field.
      alive: Who drops out when; `shared` are those that sent their coded pieces.
      field: `field.F31` or `field.F61`.

    Raises:
      ValueError: If there is no such code, or not one input for each of its clients.
    """
    seen = transcript(seed, code, inputs, alive, field)
    length = rings.shape_of(inputs)[1]
    removed = decoded(code, seen.holders, seen.answers, length, field)
    total = field.subtract(field.sum_over(seen.uploads, 0), removed)
    completed = completes(code, alive)
    return Outcome(trees.where(completed, total, 0), completed)


def transcript(
    seed: Seed, code: Code, inputs: Element, alive: Alive, field: Ring = F31
) -> Transcript:
    """All that the server of `run` with the same seed sees."""
    dropouts.check_inputs(inputs, alive, check(code).num_clients)
    length = rings.shape_of(inputs)[1]

    def add(summed: Element, row: Any) -> tuple[Element, Element]:
        place, value, uploaded = row
        mask = client_mask(seed, place, length, field)
        pieces = trees.where(uploaded, _coded(seed, code, place, mask, field), 0)
        upload = trees.where(uploaded, field.add(value, mask), 0)
        return field.add(summed, pieces), upload

    start = rings.zeros(field, (code.num_clients, piece_length(code, length)))
    rows = (jnp.arange(code.num_clients), inputs, alive.uploaded)
    summed_pieces, uploads = lax.scan(add, start, rows)
    return _seen(code, uploads, summed_pieces, alive)


def ideal_transcript(
    seed: Seed, code: Code, total: Element, alive: Alive, field: Ring = F31
) -> Transcript:
    """The server's view, drawn from the sum alone.

    **Guarantee:** this view has the same distribution as that of `transcript`, with the
    same `alive`. Uploads there are uniform and independent, as masks are; the sum of
    the masks is that of the uploads less the total; and the sum of the uniform pieces
    is uniform whatever else there is. Nothing else of the inputs goes in, so nothing
    else can come out.

    Args:
      seed: A seed of this transcript only.
      code: How masks are coded.
      total: `[length]`, the sum of the inputs of those that uploaded.
      alive: Who drops out when.
      field: The field of the total.
    """
    (length,) = rings.shape_of(total)
    dropouts.check(alive, check(code).num_clients)
    places = jnp.arange(code.num_clients)
    drawn = _uniform(random.child(seed, places, _UPLOADS), length, field)
    uploads = trees.where(alive.uploaded, drawn, 0)
    removed = field.subtract(field.sum_over(uploads, 0), total)
    unknown = random.child(seed, 0, _UNKNOWN_PIECES)
    pieces = _with_uniform_pieces(unknown, code, removed, field)
    return _seen(code, uploads, encode(code, pieces, field), alive)


def _client_points(code: Code) -> range:
    return range(1, code.num_clients + 1)


def _piece_points(code: Code) -> range:
    num_clients, surviving, _ = check(code)
    return range(num_clients + 1, num_clients + surviving + 1)


def _coded(seed: Array, code: Code, place: Any, mask: Element, field: Ring) -> Element:
    stream = random.child(seed, place, _PRIVACY)
    return encode(code, _with_uniform_pieces(stream, code, mask, field), field)


def _with_uniform_pieces(
    stream: Array, code: Code, mask: Element, field: Ring
) -> Element:
    """Pieces `[surviving, piece]`: a mask's, padded with zeros, then uniform ones."""
    (length,) = rings.shape_of(mask)
    piece = piece_length(code, length)
    missing = (code.surviving - code.privacy) * piece - length
    others = _uniform(stream, code.privacy * piece, field)

    def cut(known: Array, drawn: Array) -> Array:
        padded = jnp.pad(known, (0, missing))
        return jnp.concatenate([padded, drawn]).reshape(code.surviving, piece)

    return jax.tree.map(cut, mask, others)


def _uniform(stream: Array, length: int, field: Ring) -> Element:
    # Whole blocks: a generator that stops inside one is not vectorised.
    whole = -(-length // random.BLOCK) * random.BLOCK
    return jax.tree.map(lambda leaf: leaf[..., :length], field.uniform(stream, whole))


def _seen(
    code: Code, uploads: Element, summed_pieces: Element, alive: Alive
) -> Transcript:
    holders = first_answers(code, alive.unmasked)
    sums = trees.take(summed_pieces, holders)
    answers = trees.where(alive.unmasked[holders], sums, 0)
    return Transcript(uploads, holders, answers)
