"""Checks of inputs, seeds and public arguments, for `private`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import checks, random
from ppml_lab.smpc.ring import Ring, Seed
from ppml_lab.smpc.scheme import Shared


def checked_seed(seed: Any) -> Seed:
    """Returns the two words of a seed, or of a key of JAX.

    Raises:
      ValueError: For anything else.
    """
    dtype = getattr(seed, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        if jnp.shape(seed):
            raise ValueError(
                f"seed must be one key, got keys of shape {list(jnp.shape(seed))}"
            )
        return random.seed(seed)
    if dtype != jnp.uint32 or jnp.shape(seed) != (2,):
        got = type(seed).__name__ if dtype is None else f"{dtype}{[*seed.shape]}"
        raise ValueError(
            f"seed must be a key, or the two uint32 words of random.seed, got {got}; "
            "take, for example, jax.random.key(0)"
        )
    return jnp.asarray(seed)


def place_of(owner: Any, num_parties: int) -> int:
    """The number of a party that owns inputs; 0 for somebody else, who has a name.

    Raises:
      ValueError: For a number that no party has, or an owner that is no number or name.
    """
    is_party = isinstance(owner, int) and not isinstance(owner, bool)
    if not (isinstance(owner, str) or (is_party and owner in range(num_parties))):
        raise ValueError(
            f"owner must be a party's number, from 0 to {num_parties - 1}, or the name "
            f"of somebody else, got {owner!r}"
        )
    return 0 if isinstance(owner, str) else owner


def check_reals(ring: Ring, fraction_bits: Any, values: Any) -> None:
    """Raises ValueError for values that fixed-point numbers cannot hold.

    These are values that are not real and, where they are not traced, values that are
    not finite, outside of the ring or rounded by float32.
    """
    if isinstance(values, Shared):
        raise ValueError("values are already shared; pass them as they are")
    dtype = np.dtype(getattr(values, "dtype", None) or np.asarray(values).dtype)
    kind = dtype.kind
    if kind not in "biuf" and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"values must be real, got {dtype}; share real and imaginary parts "
            "separately"
        )
    if checks.is_traced(values):
        return
    known = np.asarray(values).astype(np.float64)
    if not np.isfinite(known).all():
        raise ValueError("values must be finite; shares have no NaN and no infinity")
    most = float(np.max(np.abs(known), initial=0.0))
    if kind in "iu" and most >= 2**24:
        raise ValueError(
            f"values must be whole numbers below 2^24, got {most:.0f}, as they are "
            "shared as float32; split larger numbers"
        )
    if not checks.is_traced(fraction_bits):
        limit = 2.0 ** (ring.bits - 1 - fraction_bits)
        if most >= limit:
            raise ValueError(
                f"values must be below {limit:g}, the limit of {ring.name} with "
                f"fraction_bits {fraction_bits}, got {most:g}"
            )


def are_public(public: Sequence[int], args: tuple[Any, ...]) -> list[bool]:
    """True for each leaf of the arguments that belongs to a public argument.

    Raises:
      ValueError: For places that no argument has.
    """
    wrong = [place for place in public if place not in range(len(args))]
    if wrong:
        raise ValueError(
            f"public must hold positions of the {len(args)} arguments, counted from 0, "
            f"got {wrong}"
        )
    return [
        place in public
        for place, arg in enumerate(args)
        for _ in jax.tree.leaves(arg, is_leaf=lambda leaf: isinstance(leaf, Shared))
    ]
