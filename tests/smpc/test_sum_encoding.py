"""The integers of a sum fit whatever bound a round states, at the largest scale."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import smpc
from ppml_lab.smpc import field, sum_encoding
from ppml_lab.smpc.ring import Z32

BOUNDS = [1e-12, 0.1, 0.5, 1.0, 1.5, 3.0, 2.0**7, 1000.0, 2.0**20, 1e18]
BOUNDS += [
    float(np.nextafter(np.float32(b), np.float32(s)))
    for b in (1, 2**7)
    for s in (0, 9e9)
]
SCALES = [1.0, 100.0, 2.0**16, 2.0**30, 2.0**60]


def told(**options: Any):
    plain: dict[str, Any] = {"max_clients": None, "max_abs": None, "scale": 2.0**16}
    plain |= {"rounding": "nearest"}
    return sum_encoding.sum_encoding(**(plain | options))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def halved(ring, wraps, num_clients, scales, bounds, bits):
    def one(scale, bound, bits):
        encoding = told(
            scale=scale, ring=ring, wraps=wraps, bits=bits if ring is Z32 else None
        )
        return sum_encoding.of_round(encoding, num_clients, bound)

    return jax.vmap(one)(scales, bounds, bits)


@pytest.mark.parametrize("ring", [Z32, field.F31], ids=lambda ring: ring.name)
@pytest.mark.parametrize(
    ("num_clients", "wraps"), [(1, False), (3, False), (999, False), (999, True)]
)
def test_a_traced_scale_is_the_largest_half_that_fits(ring, num_clients, wraps):
    """By Python's integers: no sum of the largest values leaves the ring."""
    widths = (12, 31, 32) if ring is Z32 else (31,)
    cases = [(s, b, w) for s in SCALES for b in BOUNDS for w in widths]
    scales, bounds, bits = map(np.array, zip(*cases, strict=True))
    found = halved(
        ring, wraps, num_clients, np.float32(scales), np.float32(bounds), np.int32(bits)
    )
    np.testing.assert_array_equal(found.max_abs, np.float32(bounds))
    for (scale, bound, width), now in zip(cases, np.asarray(found.scale), strict=True):
        room, added = (ring.bits, 1) if wraps else (width, num_clients)
        most = max(1, (2 ** (room - 1) - 1) // added)
        step = np.float64(np.float32(bound)) * np.float64(np.float32(scale))
        step = float(np.float32(step)) / float(np.float32(scale))

        def fits(scale, step=step, most=most):
            return math.ceil(step * scale) <= most

        assert fits(float(now))
        assert now == np.float32(scale) or not fits(2 * float(now))
        assert math.frexp(float(now))[0] == math.frexp(float(np.float32(scale)))[0]


def test_numbers_keep_their_scale_and_have_to_fit():
    assert sum_encoding.of_round(told(), 10, 8.0) == (8.0, 2.0**16)
    with pytest.raises(
        ValueError, match=r"10 summands .* needs 39 bits, but .* has 32"
    ):
        sum_encoding.of_round(told(), 10, 2.0**18)
    with pytest.raises(ValueError, match=r"1 summands .* has 32"):
        sum_encoding.of_round(told(wraps=True), 10, 2.0**18)
    # A larger cohort that was told keeps its headroom.
    with pytest.raises(ValueError, match=r"1000 summands .* has 32"):
        sum_encoding.of_round(told(max_clients=1000), 10, 64.0)


def test_what_is_told_and_what_is_so_are_compared():
    def of(encoding, num_places=10, stated=1.0):
        return sum_encoding.of_round(encoding, num_places, stated)

    with pytest.raises(
        ValueError, match=r"max_clients is 9, .* up to 10 .*max_clients=10"
    ):
        of(told(max_clients=9))
    assert of(told(max_clients=10)) == of(told(max_clients=11)) == of(told())
    with pytest.raises(ValueError, match=r"max_abs 0.99 is below .* bound 1.0"):
        of(told(max_abs=0.99))
    # The larger counts, and a number's float32 is not below itself.
    assert of(told(max_abs=3.0)).max_abs == 3.0
    assert of(told(max_abs=3.0), stated=jnp.float32(5)).max_abs == 5.0
    assert of(told(max_abs=3.0), stated=jnp.float32(2)).max_abs == 3.0
    of(told(max_abs=0.1), stated=np.float32(0.1))
    of(told(max_abs=np.float32(0.7)), stated=0.7)
    for none in (float("inf"), jnp.inf, jnp.float32(jnp.inf)):
        with pytest.raises(
            ValueError, match=r"max_abs is needed, as the mechanism bounds no"
        ):
            of(told(), stated=none)
        assert of(told(max_abs=3.0), stated=none).max_abs == 3.0


def test_a_bound_that_grows_is_followed():
    """In one compiled program, and with the sensitivity that goes with it."""
    aggregator = smpc.additive_sharing(
        2, max_abs=0.5, scale=2.0**10, bits=12, rounding="nearest"
    )
    everyone = jnp.ones(3, bool)

    @jax.jit
    def round_of(bound):
        session = aggregator.begin(jax.random.key(0), everyone, everyone, bound)
        rows = jnp.array([[1.0, -1.0, 0.25]] * 3) * bound
        places, keys = jnp.arange(3), jax.random.split(jax.random.key(1), 3)
        encode = jax.vmap(aggregator.encode, in_axes=(0, None, 0, 0))
        messages = encode(keys, session, places, rows)
        empty = aggregator.empty(messages[0])
        total = aggregator.absorb(empty, messages, places, everyone)
        sensitivity = aggregator.sensitivity(session, bound, 4)
        return aggregator.finish(session, total)[0], sensitivity

    for bound in (0.25, 2.0, 1000.0):
        total, sensitivity = round_of(bound)
        step = 1 / 2.0 ** min(10, math.floor(math.log2(682 / max(bound, 0.5))))
        np.testing.assert_allclose(
            total, np.array([3, -3, 0.75]) * bound, atol=1.5 * step
        )
        np.testing.assert_allclose(sensitivity, bound + step / 2 * 2, rtol=1e-6)
    # Without a bound of its own the mechanism's messages are clamped at what was told.
    np.testing.assert_allclose(round_of(jnp.inf)[0], [1.5, -1.5, 1.5], atol=0.01)
