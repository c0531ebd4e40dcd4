"""Runs an ordinary JAX function on shares: a model's `apply`, or a step of training.

The function is traced on reals, and its operations are carried out one after the other:
by protocols where an operand is shared, in the clear where none is. Nothing of the
model has to be rewritten:

    protocol = smpc.private.protocol("replicated", fraction_bits=16)
    logits = smpc.private.evaluate(protocol, seed, module.apply, params, images)

**Guarantee:** that of the protocols (`arithmetic`, `comparison`, `truncation`):
semi-honest parties learn what is revealed, shapes and public arguments, and what the
function's structure gives away, such as the architecture. With a truncation that rounds
at random, the default, they may also learn the fraction bits that were cut from
products on the way to what is revealed, as `truncation` explains: no more than the
inputs' own fraction bits hide, but more than the result. `truncation_method="exact"`
shows the result alone, for about ten times the messages of each truncation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from ppml_lab import arguments, checks, random
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc import sharing, streams, transcript
from ppml_lab.smpc.computing import (
    interpreter,
    private_inputs,
    private_ranges,
    private_values,
    truncation,
)
from ppml_lab.smpc.fixed_point import power_of_two
from ppml_lab.smpc.ring import Element, Ring, Seed
from ppml_lab.smpc.scheme import Scheme, Shared, shape_of


class Protocol(NamedTuple):
    """The way in which parties compute; make it with `protocol`.

    Attributes:
      scheme: The scheme of all fixed-point values.
      fraction_bits: The scale is 2 to this number; may be traced.
      truncation: The method that brings products back to the scale.
    """

    scheme: Scheme
    fraction_bits: Any
    truncation: str


@arguments.checked
def protocol(
    kind: str = "replicated",
    *,
    num_parties: int = 3,
    ring: Ring = rings.Z64,
    fraction_bits: Any = 16,
    truncation_method: str = "msb",
    ideal: bool = False,
) -> Protocol:
    """Returns a way to compute on shares, after checking it.

    Args:
      kind: "additive" (any number of parties and a dealer) or "replicated" (three
        parties, of whom the third deals).
      num_parties: At least 2; 3 if replicated.
      ring: `ring.Z32` or `ring.Z64`.
      fraction_bits: Fraction bits of numbers. May be traced, so that a sweep over bits
        is one program; then nothing checks that values fit.
      truncation_method: "local", "pair", "msb" or "exact"; see `truncation`.
      ideal: Whether to compute the values only: with the parties' roundings, messages
        and costs, at the speed of integers in the clear.

    Raises:
      ValueError: For bad arguments, or a truncation that would be wrong.
    """
    checks.known("kind", kind, ("additive", "replicated"))
    if checks.is_traced(fraction_bits):
        scale: schemes.Scale = schemes.TracedScale("fraction_bits")
    else:
        most = ring.bits // 2 - 1
        checks.at_least("fraction_bits", fraction_bits, 1)
        if not 1 <= fraction_bits <= most:
            raise ValueError(
                f"fraction_bits must be from 1 to {most}, as a product in {ring.name} "
                f"has twice as many fraction bits, got {fraction_bits}"
            )
        scale = 2.0**fraction_bits
    if kind == "additive":
        scheme = sharing.additive(num_parties, ring, scale, ideal=ideal)
    else:
        if num_parties != 3:
            raise ValueError(f"replicated shares need 3 parties, got {num_parties=}")
        scheme = sharing.replicated(ring, scale, ideal=ideal)
    truncation.check_method(scheme, truncation_method)
    return Protocol(scheme, fraction_bits, truncation_method)


def encode(protocol: Protocol, values: Float[Array, "*s"]) -> Element:
    """Rounds reals to the nearest fixed-point numbers, clamped to the ring."""
    ring = protocol.scheme.ring
    # Above, float32 has no number below half the ring.
    most = np.float32(2.0 ** (ring.bits - 1) - 2.0 ** (ring.bits - 25))
    scaled = values * power_of_two(protocol.fraction_bits)
    return rings.from_float(ring, jnp.clip(jnp.round(scaled), -most, most))


def decode(protocol: Protocol, element: Element) -> Float[Array, "*s"]:
    """The reals that fixed-point numbers stand for, to float32 precision."""
    whole = rings.to_float(protocol.scheme.ring, element)
    return whole / power_of_two(protocol.fraction_bits)


@arguments.checked
def share(
    protocol: Protocol,
    seed: Any,
    values: Any,
    *,
    owner: Any = "client",
    offline: bool = False,
) -> Any:
    """Shares a tree of reals: one value of `sharing.Shared` for each array.

    All summands but one are expanded from seeds (`sharing.share`): the owner sends the
    remaining summand once to each of its holders, and besides only seeds. Inputs that
    are shared right after each other, whoever owns them, take one round.

    Args:
      protocol: How to share.
      seed: Randomness that nothing else uses: `[2]` words of `random.seed`, or a key of
        JAX.
      values: A tree of arrays of reals, whole numbers or truth values, all of which are
        shared as reals. Traced numbers that exceed the ring are clamped.
      owner: Who has the values and sends shares: a party's number or another's name.
      offline: Whether the values, such as noise, depend on nothing and are sent before
        there are inputs, which takes no round.

    Raises:
      ValueError: If the owner is a number that no party has. For a bad seed; complex
        numbers; and, where they are not traced, numbers that are not finite or exceed
        the ring, and whole numbers from 2^24 on, which float32 would round.
    """
    scheme = protocol.scheme
    # An owner that is a party keeps what would be sent to it.
    corrected = private_inputs.place_of(owner, scheme.num_parties)
    leaves, tree = jax.tree.flatten(values)
    for leaf in leaves:
        private_inputs.check_reals(scheme.ring, protocol.fraction_bits, leaf)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    seeds = sharing.party_seeds(private_inputs.checked_seed(seed), scheme)

    def shared(number: int, leaf: Array) -> Shared:
        element = encode(protocol, leaf.astype(jnp.float32))
        streams = random.child(seeds, number)
        return sharing.share_by_seeds(streams, element, scheme, corrected=corrected)

    with transcript.scope("share", inputs=True):
        size = sum(leaf.size for leaf in leaves)
        sharing.record_inputs(scheme, owner, size, corrected=corrected, offline=offline)
        found = [shared(number, leaf) for number, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, found)


def constant(protocol: Protocol, values: Any) -> Any:
    """A tree of reals that all parties know, as shared values, without a message."""

    def known(leaf: Any) -> Shared:
        element = encode(protocol, jnp.asarray(leaf, jnp.float32))
        return sharing.constant(element, protocol.scheme)

    return jax.tree.map(known, values)


def add(one: Any, other: Any) -> Any:
    """The sums of two trees of shared values."""
    return jax.tree.map(sharing.add, one, other, is_leaf=is_shared)


def rows(shared: Any, begin: Array | int, count: int) -> Any:
    """`count` places of the secrets' first axis, for a tree of shared values.

    Args:
      shared: The values.
      begin: The first place. If traced it must leave room for `count`, unchecked.
      count: How many places.

    Raises:
      ValueError: For rows that do not exist.
    """
    checks.at_least("begin", begin, -(2**63))
    checks.at_least("count", count, 0)

    def cut(value: Shared) -> Shared:
        if not is_shared(value):
            raise ValueError(f"shared must be a tree of shared values, got {value!r}")
        length = (*shape_of(value), 0)[0]
        if not checks.is_traced(begin) and not 0 <= int(begin) <= length - count:
            raise ValueError(
                f"begin and count must select rows among the {length} of shared, got "
                f"rows {begin} to {int(begin) + count - 1}"
            )
        shares = jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, begin, count, axis=1),
            value.shares,
        )
        return Shared(shares, value.scheme)

    return jax.tree.map(cut, shared, is_leaf=is_shared)


@arguments.checked
def reveal(
    protocol: Protocol,
    shared: Any,
    *,
    name: str = "output",
    receivers: Sequence[transcript.Party] | None = None,
) -> Any:
    """Opens a tree of shared values as reals in one round; see `sharing.reveal`.

    Whole numbers and truth values (0 or 1) become reals too. Leaves that follow from
    public arguments alone are not shared, and stay as they are.
    """

    def opened(value: Any) -> Array:
        if not is_shared(value):
            return value
        element = sharing.reveal(value, name=name, receivers=receivers)
        if value.scheme.scale == 1.0:
            return rings.to_float(value.scheme.ring, element)
        schemes.check_same(value.scheme, protocol.scheme)
        return decode(protocol, element)

    leaves, tree = jax.tree.flatten(shared, is_leaf=is_shared)
    found = transcript.at_once(*(functools.partial(opened, leaf) for leaf in leaves))
    return jax.tree.unflatten(tree, found)


def is_shared(value: Any) -> bool:
    """Returns whether `value` is a shared value, where a tree ends."""
    return isinstance(value, Shared)


@arguments.checked
def evaluate(
    protocol: Protocol, seed: Any, function: Callable[..., Any], *args: Any
) -> Any:
    """Evaluates `function(*args)`, where some leaves of `args` are shared.

    Messages are noted under the names that the function's parts have in JAX
    (`jax.named_scope`; flax names its layers). Exponentials, divisions, roots and the
    like are `approximations`, which work over the whole range of the fixed point and
    saturate beyond.

    Pass what is known to all, such as masks, indices and factors, as arrays, or close
    over it. Public numbers beyond a quarter of the ring, such as `-inf` and `finfo.min`
    in a mask, become an eighth of the ring; comparing with them takes no message.
    Public factors and divisors keep their relative precision whatever their size.

    Args:
      protocol: How shared values are shared.
      seed: Randomness that nothing else uses: `[2]` words of `random.seed`, or a key of
        JAX.
      function: A pure function of trees of arrays; shared values arrive as float32.
      *args: Trees whose leaves are arrays, known to all parties, or `Shared`.

    Returns:
      The function's tree. Leaves that depend on shared values are shared: reals, and
      whole numbers and truth values at scale 1.

    Raises:
      NotImplementedError: For an operation without a private form; names the operation
        and where it is. `unsupported` finds all of these operations.
      ValueError: For values that are shared otherwise, or a bad seed.
    """
    leaves, tree = jax.tree.flatten(args, is_leaf=is_shared)
    for leaf in leaves:
        if is_shared(leaf) and leaf.scheme.scale != 1.0:
            schemes.check_same(leaf.scheme, protocol.scheme)
    closed, out_tree = interpreter.traced(function, leaves, tree)
    run = interpreter.Run(
        streams.Stream(private_inputs.checked_seed(seed)),
        protocol.scheme,
        protocol.fraction_bits,
        protocol.truncation,
    )
    return jax.tree.unflatten(out_tree, interpreter.results(run, closed, leaves))


@arguments.checked
def unsupported(
    function: Callable[..., Any], *args: Any, public: Sequence[int] = ()
) -> dict[str, list[str]]:
    """Finds all operations of a function without a private form, without running it.

    Args:
      function: As for `evaluate`.
      *args: Trees of arrays, of `jax.ShapeDtypeStruct`, or of shared values.
      public: The places among `args` of arguments that all parties know.

    Returns:
      For each layer's name, what would be refused in it; empty where all is well.
    """
    are_public = private_inputs.are_public(public, args)
    how = protocol(ideal=True)
    missing: dict[str, list[str]] = {}

    def trial(seed: Seed, secret: list[Any], known: list[Any]) -> None:
        leaves = list(map(merge, secret, known))
        closed, _ = interpreter.traced(function, leaves, tree)
        stream = streams.Stream(seed)
        run = interpreter.Run(stream, how.scheme, how.fraction_bits, how.truncation)
        run.missing = missing
        interpreter.results(run, closed, leaves)

    def merge(secret: Any, known: Any) -> Any:
        return known if secret is None else constant(how, secret)

    flat, tree = jax.tree.flatten(args, is_leaf=is_shared)
    secret = [
        None
        if is_known
        else jax.ShapeDtypeStruct(private_values.abstract(leaf).shape, jnp.float32)
        for leaf, is_known in zip(flat, are_public, strict=True)
    ]
    traced = [
        leaf if is_known and isinstance(leaf, jax.ShapeDtypeStruct) else None
        for leaf, is_known in zip(flat, are_public, strict=True)
    ]

    def closed_over(seed: Seed, secret: list[Any], traced: list[Any]) -> None:
        known = [a if b is None else b for a, b in zip(flat, traced, strict=True)]
        trial(seed, secret, known)

    seed = jax.ShapeDtypeStruct((2,), jnp.uint32)
    transcript.priced(closed_over, seed, secret, traced)
    return missing


@arguments.checked
def check_ranges(
    protocol: Protocol,
    function: Callable[..., Any],
    *args: Any,
    public: Sequence[int] = (),
) -> dict[str, int]:
    """Finds and checks the bits that every layer needs, on examples in the clear.

    Args:
      protocol: With `fraction_bits` that are not traced.
      function: As for `evaluate`.
      *args: Trees of arrays, such as real parameters and inputs.
      public: The places among `args` of arguments that all parties know, which
        `evaluate` is given as arrays. What the function closes over is public.

    Returns:
      For each layer's name, the most bits that a value in it needs: its integer and
      fraction bits, those of products doubled, a sign, and one for truncation. Inputs
      count as the layer "the inputs".

    Raises:
      ValueError: Where the bits exceed the ring's; names the layer. Where a division,
        root, logarithm or exponential saturates for its argument; names layer, value
        and domain.
    """
    if checks.is_traced(protocol.fraction_bits):
        raise ValueError("fraction_bits must not be traced where ranges are checked")
    are_public = private_inputs.are_public(public, args)
    leaves, tree = jax.tree.flatten(args)
    closed, _ = interpreter.traced(function, leaves, tree)
    ring, bits = protocol.scheme.ring, protocol.fraction_bits
    ranges = private_ranges.Ranges(ring, bits)
    ranges.run(
        closed,
        [
            leaf if is_known else private_ranges.Secret(jnp.asarray(leaf))
            for leaf, is_known in zip(leaves, are_public, strict=True)
        ],
    )
    for layer, needed in ranges.needed.items():
        if needed > ring.bits:
            fewer = bits - -(-(needed - ring.bits) // 2)
            cures = [f"take at most {fewer}"] if fewer >= 1 else ["scale values down"]
            cures += ["take ring.Z64"] if ring.bits < 64 else []
            raise ValueError(
                f"fraction_bits {bits} is too many in {ring.name}: layer {layer} needs "
                f"{needed} bits, but the ring has {ring.bits}; {', or '.join(cures)}"
            )
    return ranges.needed
