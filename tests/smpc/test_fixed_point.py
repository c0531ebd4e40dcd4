"""Encoding reals: error bounds, unbiased rounding, and sums that cannot wrap around."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ppml_lab import smpc
from ppml_lab.smpc import ring

KEY = jax.random.key(0)
ERROR = {"nearest": 0.5, "stochastic": 1.0}  # in steps
each_rounding = pytest.mark.parametrize("rounding", ERROR)


def steps_of(encoding, values, key=KEY) -> np.ndarray:
    """The signed integers that values are encoded as."""
    encoded = encoding.encode(key, jnp.asarray(np.array(values, np.float32)))
    assert encoded.dtype == jnp.uint32
    return np.asarray(encoded).view(np.int32).astype(np.int64)


@each_rounding
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4),
    log_scale=st.integers(-2, 24),
    seed=st.integers(0, 2**32 - 1),
)
@example(values=[0.0, -0.0, 0.5, -0.5], log_scale=0, seed=0)
@example(values=[1e-30, -1e-30, 8.0, -8.0], log_scale=24, seed=0)
def test_each_value_is_within_its_bound(rounding, values, log_scale, seed):
    scale = 2.0**log_scale
    encoding = smpc.fixed_point(3, 8.0, scale, rounding)
    key = jax.random.key(seed)
    steps = steps_of(encoding, values, key)
    exact = np.array(values, np.float32).astype(np.float64) * scale
    error = np.abs(steps - exact)
    assert (error <= ERROR[rounding]).all()
    decoded = encoding.decode(encoding.encode(key, jnp.float32(values)))
    assert decoded.dtype == jnp.float32
    np.testing.assert_array_equal(decoded, np.float32(steps / scale))


@each_rounding
@pytest.mark.parametrize("scale", [1.0, 2.0**16, 100.0])
def test_values_on_the_grid_are_exact(rounding, scale):
    """Also beyond 2^24 steps, where float32 has no room for a random fraction."""
    rng = np.random.default_rng(0)
    grid = [0, 1, -1, 2**24 - 1, 2**24, 2**24 + 2, -(2**27), 2**31 - 128, -(2**31)]
    grid += (rng.integers(-(2**24), 2**24, 500)).tolist()
    if scale == 100.0:
        grid = [100 * g for g in grid if abs(g) < 2**17]
    encoding = smpc.FixedPoint(scale, np.inf, rounding)
    values = np.array(grid, np.float64) / scale
    assert (np.float32(values) == values).all()
    for seed in range(5):
        steps = steps_of(encoding, values, jax.random.key(seed))
        np.testing.assert_array_equal(steps, grid)


def test_stochastic_rounding_is_unbiased():
    values = jnp.array([0.3, -0.3, 0.5, -2.75, 1e-3, -1e-3, 2.999, 4000.125, 0.0])
    encoding = smpc.fixed_point(1, 5000.0, 2.0, "stochastic")
    keys = jax.random.split(KEY, 20_000)
    rounded = np.asarray(jax.vmap(encoding.encode, in_axes=(0, None))(keys, values))
    rounded = rounded.view(np.int32).astype(np.float64)
    exact = np.float64(values) * 2
    fraction = exact - np.floor(exact)
    deviation = np.sqrt(fraction * (1 - fraction) / len(keys))
    assert (np.abs(rounded.mean(0) - exact) <= 4.5 * deviation).all()
    assert (np.abs(rounded - exact) < 1).all()
    # Coordinates are rounded independently; where one outcome is rare, a few common
    # ones decide the correlation, which then has no normal distribution.
    often = (fraction > 0.1) & (fraction < 0.9)
    correlation = np.corrcoef(rounded[:, often].T)
    off_diagonal = correlation - np.eye(len(correlation))
    assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(len(keys))


def test_nearest_rounding_needs_no_key():
    encoding = smpc.fixed_point(1, 8.0, 64.0, "nearest")
    values = np.random.default_rng(0).uniform(-8, 8, 1000)
    np.testing.assert_array_equal(
        steps_of(encoding, values), steps_of(encoding, values, jax.random.key(1))
    )


@each_rounding
def test_extremes(rounding):
    encoding = smpc.fixed_point(10, 2.5, 2.0**10, rounding)
    values = [np.nan, np.inf, -np.inf, 3e38, -3e38, 2.5, -2.5, 2.51]
    expected = [0, 2560, -2560, 2560, -2560, 2560, -2560, 2560]
    np.testing.assert_array_equal(steps_of(encoding, values), expected)


@each_rounding
def test_the_same_with_64_bit_types(rounding):
    encoding = smpc.fixed_point(10, 2.5, 2.0**10, rounding)
    values = np.random.default_rng(1).normal(size=200)
    short = steps_of(encoding, values)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(steps_of(encoding, values), short)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    num_summands=st.integers(1, 5000),
    max_abs=st.floats(1e-3, 1e3),
    scale=st.floats(1e-2, 1e6),
)
@example(num_summands=1, max_abs=1.0, scale=1.0)
@example(num_summands=1, max_abs=2.0**15, scale=2.0**16)
@example(num_summands=3, max_abs=85.0, scale=0.5)
def test_bits_needed_is_the_least_width(num_summands, max_abs, scale):
    largest = num_summands * math.ceil(max_abs * scale)
    widths = (
        b for b in range(1, 99) if -(2 ** (b - 1)) <= -largest <= largest < 2 ** (b - 1)
    )
    assert smpc.bits_needed(num_summands, max_abs, scale) == next(widths)


@each_rounding
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    num_summands=st.integers(1, 2000),
    max_abs=st.floats(1e-3, 1e6),
    scale=st.one_of(st.integers(-10, 30).map(lambda b: 2.0**b), st.floats(0.1, 1e8)),
)
@example(num_summands=1, max_abs=2.0**31 - 128, scale=1.0)
@example(num_summands=2, max_abs=2.0**30 - 1, scale=1.0)  # float32 rounds it to 2^30
@example(num_summands=2, max_abs=16383.99998, scale=2.0**16)
@example(num_summands=1, max_abs=0.7, scale=2147483647 / 0.7)
def test_what_is_accepted_never_wraps(rounding, num_summands, max_abs, scale):
    try:
        encoding = smpc.fixed_point(num_summands, max_abs, scale, rounding)
    except ValueError:
        assert num_summands * math.ceil(max_abs * scale * (1 + 2**-22)) >= 2**31
        return
    steps = steps_of(encoding, [np.inf, -np.inf] * 20)  # stochastic: try both ways
    assert num_summands * np.abs(steps).max() < 2**31


@pytest.mark.parametrize("bits", [12, 20, 32])
def test_headroom_and_the_largest_scale(bits):
    scale = smpc.largest_scale(100, 3.0, bits)
    assert smpc.headroom(100, 3.0, scale, bits) >= 0
    assert smpc.headroom(100, 3.0, 2 * scale, bits) < 0
    assert smpc.headroom(1, 1.0, 1.0, bits) == bits - 2  # -1, 0 and 1 need two


def test_one_client_more_would_wrap():
    most = (2**31 - 1) // 2**16
    encoding = smpc.fixed_point(most, 1.0, 2.0**16)
    one = encoding.encode(KEY, jnp.ones(1))
    total = ring.Z32.sum_over(jnp.tile(one, (most, 1)), 0)
    assert encoding.decode(total) == most
    assert encoding.decode(total + one) == -(most + 1)
    with pytest.raises(
        ValueError, match=r"32768 summands .* needs 33 bits, but .* has 32"
    ):
        smpc.fixed_point(most + 1, 1.0, 2.0**16)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    num_summands=st.integers(1, 10**6),
    max_abs=st.floats(1e-3, 1e6),
    scale=st.floats(0.1, 1e9),
)
@example(num_summands=65537, max_abs=65535.0, scale=1.0)
@example(num_summands=2, max_abs=2.0**30 - 1, scale=1.0)
def test_following_the_advice_of_the_error_helps(num_summands, max_abs, scale):
    try:
        smpc.fixed_point(num_summands, max_abs, scale)
    except ValueError as error:
        advice = re.search(r"lower the scale to at most 2\^(-?\d+)$", str(error))
        assert advice
        enough = 2.0 ** int(advice[1])
        assert enough < scale
        smpc.fixed_point(num_summands, max_abs, enough)
        if max_abs * enough > 1e4:  # else a step is too coarse to tell
            with pytest.raises(ValueError, match="modulus too small"):
                smpc.fixed_point(num_summands, max_abs, 2.02 * enough)
    else:
        assume(False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1.0, 1.0), "num_summands must be an integer of at least 1, got 0"),
        ((1, 0.0, 1.0), r"max_abs must be positive and finite, got 0\.0"),
        ((1, float("nan"), 1.0), "max_abs must be positive .*, got nan"),
        ((1, float("inf"), 1.0), "max_abs must be positive .*, got inf"),
        ((1, 1.0, -2.0), r"scale must be positive .*, got -2\.0"),
        ((1, 1.0, 1.0, "up"), "unknown rounding 'up'.*nearest, stochastic"),
        ((4000, 1.0, 2.0**20), r"4000 summands x max_abs 1\.0 x scale .*needs 33 bits"),
        ((1, 1e39, 1.0), "needs [0-9]+ bits, but .* has 32"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        smpc.fixed_point(*arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            smpc.bits_needed,
            (0, 1.0, 2.0),
            "num_summands must be an integer of at least",
        ),
        (smpc.bits_needed, (2, np.inf, 2.0), "max_abs must be positive and finite"),
        (smpc.bits_needed, (2, 1.0, -2.0), "scale must be positive"),
        (smpc.headroom, (2, 1.0, 2.0, 0), "bits must be an integer of at least 1"),
        (smpc.largest_scale, (2, np.inf, 32), "max_abs must be positive and finite"),
        (smpc.largest_scale, (2, 1.0, 0), "bits must be an integer of at least 1"),
        (smpc.power_of_two, (200,), r"exponent must lie in \[-126, 127\]"),
        (smpc.power_of_two, (-2000,), "exponent must be an integer of at least -126"),
        (smpc.power_of_two, (1.5,), "exponent must be an integer"),
    ],
)
def test_numbers_of_no_sum_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@each_rounding
def test_a_value_that_moves_is_rounded_before_and_after(rounding):
    """The same random number for both: a sum moves by what one summand moved, and a
    step in each coordinate.
    """
    rng, encoding = np.random.default_rng(1), smpc.fixed_point(3, 8.0, 4.0, rounding)
    before = rng.uniform(-3, 3, (2000, 5))
    before[:50] = (np.floor(before[:50] * 4) + 0.499) / 4
    after = before + rng.normal(size=before.shape) * rng.uniform(0, 1, (2000, 1))
    after[:50] = before[:50] + 0.001
    moved = [
        steps_of(encoding, both.ravel()).reshape(both.shape) / 4.0
        for both in (before, after)
    ]
    size = np.linalg.norm(moved[1] - moved[0], axis=1)
    norm = np.linalg.norm(np.float32(after) - np.float32(before), axis=1)
    assert (size <= norm + encoding.rounding_change(5) + 1e-9).all()
    if rounding == "nearest":
        # Half a step is enough for a vector that comes or goes alone.
        assert (size > norm + encoding.rounding_norm(5)).any()
