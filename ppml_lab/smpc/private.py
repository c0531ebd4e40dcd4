"""Runs an ordinary JAX function on shares: a model's `apply`, or a step of training.

The function is traced on reals, and its operations are carried out one after the other
by protocols where an operand is shared, and as they are where none is. Nothing of the
model has to be rewritten:

    protocol = smpc.private.protocol("replicated", fraction_bits=16)
    logits = smpc.private.evaluate(protocol, seed, module.apply, params, images)

**Guarantee:** that of the protocols (`arithmetic`, `comparison`, `truncation`):
semi-honest parties learn what is revealed, and shapes. What the function's structure
gives away, such as the architecture, is known to all parties.
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
from ppml_lab.smpc import interpreter, sharing, transcript, truncation
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc.fixed_point import power_of_two
from ppml_lab.smpc.ring import Element, Ring, Seed
from ppml_lab.smpc.scheme import Scheme, Shared


class Protocol(NamedTuple):
    """How parties compute; make it with `protocol`.

    Attributes:
      scheme: Of all fixed-point values.
      fraction_bits: The scale is 2 to this; may be traced.
      truncation: How products get back to the scale.
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
    """A way to compute on shares.

    Args:
      kind: "additive" (any number of parties and a dealer) or "replicated" (three
        parties, of whom the third deals).
      num_parties: At least 2; 3 if replicated.
      ring: `ring.Z32` or `ring.Z64`.
      fraction_bits: Of fixed-point numbers. May be traced, so that a sweep over bits is
        one program; then nothing checks that values fit.
      truncation_method: "local", "pair" or "msb"; see `truncation`.
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
        if not 1 <= fraction_bits <= most:
            raise ValueError(
                f"fraction_bits must be from 1 to {most}, as a product in {ring.name} "
                f"has twice as many, got {fraction_bits}"
            )
        scale = 2.0**fraction_bits
    if kind == "additive":
        scheme = sharing.additive(num_parties, ring, scale, ideal=ideal)
    else:
        if num_parties != 3:
            raise ValueError(f"replicated shares need 3 parties, got {num_parties}")
        scheme = sharing.replicated(ring, scale, ideal=ideal)
    truncation.check_method(scheme, truncation_method)
    return Protocol(scheme, fraction_bits, truncation_method)


def encode(protocol: Protocol, values: Float[Array, "*s"]) -> Element:
    """Rounds to the nearest fixed-point number; what exceeds the ring is clamped."""
    ring = protocol.scheme.ring
    # Above, float32 has no number below half the ring.
    most = np.float32(2.0 ** (ring.bits - 1) - 2.0 ** (ring.bits - 25))
    scaled = values * power_of_two(protocol.fraction_bits)
    return rings.from_float(ring, jnp.clip(jnp.round(scaled), -most, most))


def decode(protocol: Protocol, element: Element) -> Float[Array, "*s"]:
    """The reals that fixed-point numbers stand for, to float32 precision."""
    whole = rings.to_float(protocol.scheme.ring, element)
    return whole / power_of_two(protocol.fraction_bits)


def share(
    protocol: Protocol,
    seed: Seed,
    values: Any,
    *,
    owner: transcript.Party = "client",
    offline: bool = False,
) -> Any:
    """Shares a tree of reals: one value of `sharing.Shared` for each array.

    All but one summand are expanded from seeds (`sharing.share`): the owner sends the
    values once to each holder of the one that is not, and besides seeds alone. Inputs
    that are shared right after each other, whoever owns them, take one round.

    Args:
      protocol: How.
      seed: Of randomness that nothing else uses, `[2]`.
      values: A tree of float arrays.
      owner: Who has them and sends shares: a party's number or another's name.
      offline: Whether they depend on nothing, such as noise, and are sent before there
        are inputs, which takes no round.

    Raises:
      ValueError: If the owner is a number that no party has.
    """
    scheme = protocol.scheme
    is_party = not isinstance(owner, bool) and owner in range(scheme.num_parties)
    if not (is_party or isinstance(owner, str)):
        raise ValueError(
            f"owner must be a party's number, from 0 to {scheme.num_parties - 1}, or "
            f"another's name, got {owner!r}"
        )
    leaves, tree = jax.tree.flatten(values)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    # An owner that is a party keeps what would be sent to it.
    corrected = 0 if isinstance(owner, str) else int(owner)
    seeds = sharing.party_seeds(seed, scheme)

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
    """`count` places of the secrets' first axis, for a tree of shared values."""

    def cut(value: Shared) -> Shared:
        shares = jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, begin, count, axis=1),
            value.shares,
        )
        return Shared(shares, value.scheme)

    return jax.tree.map(cut, shared, is_leaf=is_shared)


def reveal(
    protocol: Protocol,
    shared: Any,
    *,
    name: str = "output",
    receivers: Sequence[transcript.Party] | None = None,
) -> Any:
    """Opens a tree of shared values as reals, in one round; see `sharing.reveal`."""

    def opened(value: Shared) -> Array:
        element = sharing.reveal(value, name=name, receivers=receivers)
        if value.scheme.scale == 1.0:
            return rings.to_float(value.scheme.ring, element)
        schemes.check_same(value.scheme, protocol.scheme)
        return decode(protocol, element)

    leaves, tree = jax.tree.flatten(shared, is_leaf=is_shared)
    found = transcript.at_once(*(functools.partial(opened, leaf) for leaf in leaves))
    return jax.tree.unflatten(tree, found)


def is_shared(value: Any) -> bool:
    """Whether a tree ends here."""
    return isinstance(value, Shared)


def evaluate(
    protocol: Protocol, seed: Seed, function: Callable[..., Any], *args: Any
) -> Any:
    """`function(*args)`, where some leaves of `args` are shared.

    Messages are noted under the names that the function's parts have in JAX
    (`jax.named_scope`; flax names its layers). Exponentials, divisions, sigmoids and
    the like are `approximations`.

    Args:
      protocol: How shared values are shared.
      seed: Of randomness that nothing else uses, `[2]`.
      function: Of trees of float arrays, pure.
      *args: Trees whose leaves are arrays, known to all parties, or `Shared`.

    Returns:
      The function's tree, its leaves shared where they depend on what is.

    Raises:
      NotImplementedError: For an operation without a private form; names it and where
        it is.
      ValueError: For values that are shared otherwise.
    """
    leaves, tree = jax.tree.flatten(args, is_leaf=is_shared)
    for leaf in leaves:
        if is_shared(leaf) and leaf.scheme.scale != 1.0:
            schemes.check_same(leaf.scheme, protocol.scheme)
    closed, out_tree = _traced(function, leaves, tree)
    run = interpreter.Run(
        seed,
        protocol.scheme,
        protocol.fraction_bits,
        protocol.truncation,
        lambda values: encode(protocol, values),
    )
    return jax.tree.unflatten(out_tree, interpreter.results(run, closed, leaves))


def check_ranges(
    protocol: Protocol, function: Callable[..., Any], *args: Any
) -> dict[str, int]:
    """The bits that every layer needs for examples in the clear, checked.

    Args:
      protocol: With `fraction_bits` that are not traced.
      function: As for `evaluate`.
      *args: Trees of float arrays, such as real parameters and inputs.

    Returns:
      For each layer's name, the most bits that a value in it needs: its integer and
      fraction bits, those of products doubled, a sign, and one for truncation.

    Raises:
      ValueError: Where they exceed the ring's; names the layer.
    """
    leaves, tree = jax.tree.flatten(args)
    closed, _ = _traced(function, leaves, tree)
    needed = interpreter.bits_by_layer(closed, leaves, protocol.fraction_bits)
    ring = protocol.scheme.ring
    for layer, bits in needed.items():
        if bits > ring.bits:
            raise ValueError(
                f"fraction_bits {protocol.fraction_bits} too many in {ring.name}: "
                f"layer {layer} needs {bits} bits, have {ring.bits}; take "
                f"{protocol.fraction_bits - -(-(bits - ring.bits) // 2)}, or ring.Z64"
            )
    return needed


def _traced(
    function: Callable[..., Any], leaves: list[Any], tree: Any
) -> tuple[Any, Any]:
    """The function's program, on arrays in place of what is shared."""

    def of_leaves(*values: Array) -> Any:
        return function(*jax.tree.unflatten(tree, values))

    shapes = [
        jax.ShapeDtypeStruct(schemes.shape_of(leaf), jnp.float32)
        if is_shared(leaf)
        else jax.typeof(leaf)
        for leaf in leaves
    ]
    closed, out = jax.make_jaxpr(of_leaves, return_shape=True)(*shapes)
    return closed, jax.tree.structure(out)
