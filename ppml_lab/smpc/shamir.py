"""Shamir's sharing: values of a random polynomial whose value at 0 is the secret.

Shamir, "How to share a secret", Communications of the ACM, 1979, over the prime fields
of `field`. Party i has the value at the point i + 1.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ppml_lab import arguments, checks, random
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc import transcript
from ppml_lab.smpc.field import F31, inverse, matmul
from ppml_lab.smpc.ring import Element, Ring, Seed, Wide
from ppml_lab.smpc.scheme import Scheme, Shared


@arguments.checked
def shamir(
    threshold: int, num_parties: int, field: Ring = F31, scale: float = 1.0
) -> Scheme:
    """Shamir's scheme: any `threshold` of `num_parties` parties reconstruct.

    **Guarantee:** any `threshold - 1` shares are independent of the secret. That holds
    for the arithmetic; the emulation keeps all shares in one place and draws them from
    a generator that is not cryptographic.

    Args:
      threshold: From 1, which hides nothing, to `num_parties`.
      num_parties: Below the field's modulus.
      field: `field.F31` or `field.F61`.
      scale: Fixed-point steps per unit.

    Raises:
      ValueError: For bad arguments.
    """
    checks.at_least("threshold", threshold, 1)
    checks.positive("scale", scale)
    if threshold > num_parties:
        raise ValueError(
            f"threshold {threshold} exceeds num_parties {num_parties}; lower the "
            "threshold or add parties"
        )
    if field.modulus % 2 == 0:
        raise ValueError(f"{field.name} is not a field; use field.F31 or field.F61")
    if num_parties >= field.modulus:
        raise ValueError(
            f"num_parties {num_parties} needs as many nonzero points, but {field.name} "
            f"has {field.modulus - 1}; use a larger field"
        )
    return Scheme("shamir", field, num_parties, threshold, float(scale))


def share(
    seed: Seed, secret: Element, scheme: Scheme, first_block: Array | int = 0
) -> Shared:
    """Shares of `secret` in a `shamir` scheme, as `sharing.share` makes them.

    One exact product gives all parties' shares: the points' powers
    `[parties, threshold]` times the coefficients `[threshold, secret's size]`.
    """
    schemes.check_kind(scheme, "shamir")
    schemes.check_secret(scheme.ring, secret, first_block)
    field, num_parties, threshold = scheme[1:4]
    shape = rings.shape_of(secret)
    flat = jax.tree.map(lambda leaf: leaf.reshape(1, -1), secret)
    if threshold == 1:
        coefficients = flat
    else:
        streams = random.child(seed, jnp.arange(1, threshold))
        length = rings.shape_of(flat)[1]
        drawn = field.uniform(streams, length, first_block)
        coefficients = jax.tree.map(lambda *a: jnp.concatenate(a), flat, drawn)
        # The product cuts them into limbs: they must not be drawn again for each limb.
        coefficients = lax.optimization_barrier(coefficients)
    points = range(1, num_parties + 1)
    powers = [[pow(x, k, field.modulus) for k in range(threshold)] for x in points]
    values = matmul(field, rings.from_integers(field, powers), coefficients)
    return Shared(
        jax.tree.map(lambda leaf: leaf.reshape(num_parties, *shape), values), scheme
    )


@arguments.checked
def reveal(
    shared: Shared,
    *,
    name: str,
    parties: Sequence[int] | None = None,
    receivers: Sequence[transcript.Party] | None = None,
) -> Element:
    """Opens a value with the shares of some parties.

    Args:
      shared: A value of a `shamir` scheme.
      name: The value's name in the transcript.
      parties: Numbers, from 0, of the parties that send their shares: at least the
        threshold. By default the first `threshold` parties.
      receivers: Who learns the value: parties' numbers, and names of others. By default
        all parties.

    Returns:
      The secret, `[*s]`.

    Raises:
      ValueError: For too few parties, a party twice, or a number that no party has.
    """
    scheme = shared.scheme
    schemes.check_kind(scheme, "shamir")
    schemes.check_shares(shared)
    chosen = tuple(range(scheme.threshold) if parties is None else parties)
    schemes.check_parties("parties", chosen, scheme)
    if len(chosen) < scheme.threshold:
        raise ValueError(
            f"parties {list(chosen)} are too few for {schemes.describe(scheme)}; give "
            f"at least {scheme.threshold} shares"
        )
    learners = schemes.receivers_of(scheme, receivers)
    shape = schemes.shape_of(shared)
    transcript.record_reveal(name, scheme, shape, learners)
    with transcript.scope(name):
        num_bits = scheme.ring.bits * math.prod(shape)
        for sender, receiver in itertools.product(chosen, learners):
            if sender != receiver:
                transcript.record_message("share", sender, receiver, num_bits)
    weights = lagrange_weights(scheme.ring, [party + 1 for party in chosen])
    rows = jnp.array(chosen, jnp.int32)
    held = jax.tree.map(lambda leaf: leaf[rows], shared.shares)
    return reconstruct(scheme.ring, held, weights)


def lagrange_weights(
    field: Ring, points: Sequence[int] | Element, at: int | Sequence[int] = 0
) -> Element:
    """Weights that turn a polynomial's values at `points` into its value at `at`.

    The value is the weighted sum; by default, of shares at `points`, the secret. The
    weight of x is the product of (y - at) / (y - x) over all other points y.

    Args:
      field: `field.F31` or `field.F61`.
      points: Python integers, which are checked, or elements `[t]`, which may be traced
        and must differ from each other and from `at`.
      at: One target, or `k` of them.

    Returns:
      Elements `[t]`, or `[k, t]` for `k` targets.

    Raises:
      ValueError: If a known point is a target or appears twice, modulo the field's
        modulus.
    """
    targets = [at] if isinstance(at, int) else list(at)
    if _are_known(points):
        weights = rings.from_integers(field, _known_weights(field, points, targets))
    else:
        weights = _traced_weights(field, points, targets)
    if isinstance(at, int):
        return jax.tree.map(lambda leaf: leaf[0], weights)
    return weights


def _are_known(points: Any) -> bool:
    return isinstance(points, Sequence) and not isinstance(points, Wide)


def _known_weights(
    field: Ring, points: Sequence[int], targets: list[int]
) -> list[list[int]]:
    p = field.modulus
    residues = [x % p for x in points]
    if len(set(residues)) < len(residues) or {t % p for t in targets} & set(residues):
        named = targets[0] if len(targets) == 1 else f"one of {targets}"
        raise ValueError(
            f"points must be distinct and not {named} modulo {p}, got {list(points)}"
        )
    inverses = [
        pow(_product(((y - x) for y in residues if y != x), p), -1, p) for x in residues
    ]
    weights = []
    for target in targets:
        above = _product((y - target for y in residues), p)
        weights.append(
            [
                above * pow(x - target, -1, p) * inverse % p
                for x, inverse in zip(residues, inverses, strict=True)
            ]
        )
    return weights


def _product(factors: Iterable[int], modulus: int) -> int:
    return functools.reduce(lambda a, b: a * b % modulus, factors, 1)


def _traced_weights(field: Ring, points: Element, targets: list[int]) -> Element:
    """Weights of traced points, a factor at a time: memory is that of the weights."""
    count = rings.shape_of(points)[0]
    goals = rings.from_integers(field, np.array(targets, object)[:, None])
    one = rings.from_integers(field, 1)

    def multiply(number: Array | int, products: Element) -> Element:
        y = jax.tree.map(lambda leaf: leaf[number], points)
        itself = jnp.arange(count) == number

        def times(product: Element, factor: Element) -> Element:
            others = jax.tree.map(
                lambda leaf, unit: jnp.where(itself, unit, leaf), factor, one
            )
            return field.multiply(product, others)

        above, below = products
        return (
            times(above, field.subtract(y, goals)),
            times(below, field.subtract(y, points)),
        )

    start = (
        rings.from_integers(field, np.ones((len(targets), count), int)),
        rings.from_integers(field, np.ones(count, int)),
    )
    above, below = lax.fori_loop(0, count, multiply, start)
    return field.multiply(above, inverse(field, below))


def reconstruct(field: Ring, shares: Element, weights: Element) -> Element:
    """Reconstructs secrets `[*s]` from shares `[t, *s]` and `lagrange_weights` `[t]`.

    Raises:
      ValueError: If there is not one weight per share.
    """
    shape, (count, *rest) = rings.shape_of(weights), rings.shape_of(shares)
    if shape != (count,):
        raise ValueError(
            f"weights must have shape [{count}], one for each of the shares, got "
            f"{list(shape)}"
        )
    columns = (1,) * len(rest)
    spread = jax.tree.map(lambda leaf: leaf.reshape(count, *columns), weights)
    return field.sum_over(field.multiply(spread, shares), 0)


def evaluate(field: Ring, coefficients: Element, points: Any) -> Element:
    """The values of polynomials at `points`, by Horner's rule.

    They are shares of few secrets; the coefficients may be traced and batched.

    Args:
      field: `field.F31` or `field.F61`.
      coefficients: `[t, *s]`, the constant terms first: the secrets.
      points: Elements `[k]`, or Python integers.

    Returns:
      `[k, *s]`.
    """
    if _are_known(points):
        points = rings.from_integers(field, points)
    shape = rings.shape_of(coefficients)[1:]
    count = rings.shape_of(points)[0]
    columns = (1,) * len(shape)
    spread = jax.tree.map(lambda leaf: leaf.reshape(count, *columns), points)

    def step(total: Element, coefficient: Element) -> tuple[Element, None]:
        return field.add(field.multiply(total, spread), coefficient), None

    none = rings.zeros(field, (count, *shape))
    return lax.scan(step, none, coefficients, reverse=True)[0]
