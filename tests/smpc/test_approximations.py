"""What approximations promise, on reals against float64, and on shares over the whole
range of the fixed point.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ppml_lab.smpc import approximations, private, ring

SEED = jnp.array([31, 32], jnp.uint32)
FRACTION_BITS = (12, 20)
FAST = {"xla_backend_optimization_level": 0}
"""Of compiling, which takes longest."""


def both_signs(x: np.ndarray) -> np.ndarray:
    return np.concatenate([-x[::-1], x])


def some_logits(count: int = 200) -> np.ndarray:
    """Rows of up to 100 classes, with differences up to 1e4; one is all equal."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(0.01, 1e4, count)[:, None]
    return np.concatenate([spread * rng.uniform(size=(count, 10)), np.zeros((1, 10))])


@dataclasses.dataclass(frozen=True)
class Case:
    """What a function promises.

    Attributes:
      approximate: The function.
      exact: In float64.
      domain: Where it is good on reals.
      allowed: Its largest error there, given exact values.
      on_shares: Arguments of the fixed-point numbers.
      relative: Their error on top, in `2^-f` of the value, given arguments.
      steps: And in steps.
    """

    approximate: Callable[..., Any]
    exact: Callable[..., Any]
    domain: np.ndarray
    allowed: Callable[[np.ndarray], Any]
    on_shares: np.ndarray
    relative: Callable[[np.ndarray], Any]
    steps: float


SIZES = np.geomspace(1e-30, 1e30, 4001)
# Above a step of 12 bits and below what products of 20 leave room for.
FIXED = np.concatenate([np.geomspace(2.0**-12, 2.0**20, 150), [1 / 300, 1, 2, 300]])
CASES = {
    "exp": Case(
        approximations.exp,
        np.exp,
        np.linspace(-80, 80, 4001),
        lambda value: 1e-5 * value,
        np.concatenate([-np.geomspace(0.01, 1e6, 60), np.linspace(-30, 13, 100), [0]]),
        lambda x: 4 + np.abs(x),
        3,
    ),
    "reciprocal": Case(
        approximations.reciprocal,
        lambda x: 1 / x,
        both_signs(SIZES),
        lambda value: 1e-6 * np.abs(value),
        both_signs(FIXED),
        lambda x: 4,
        3,
    ),
    "inverse_sqrt": Case(
        approximations.inverse_sqrt,
        lambda x: 1 / np.sqrt(x),
        SIZES,
        lambda value: 1e-6 * value,
        FIXED,
        lambda x: 4,
        4,
    ),
    "sqrt": Case(
        approximations.sqrt,
        np.sqrt,
        np.concatenate([SIZES, [0]]),
        lambda value: 1e-6 * value,
        np.concatenate([FIXED, [0]]),
        lambda x: 4,
        3,
    ),
    "log": Case(
        approximations.log,
        np.log,
        SIZES,
        lambda value: 1e-6 + 1e-6 * np.abs(value),
        FIXED,
        lambda x: 0,
        5,
    ),
    "log1p": Case(
        approximations.log1p,
        np.log1p,
        SIZES,
        lambda value: 1e-6 + 1e-6 * np.abs(value),
        FIXED,
        lambda x: 0,
        5,
    ),
    "sigmoid": Case(
        approximations.sigmoid,
        scipy.special.expit,
        both_signs(SIZES),
        lambda value: 1e-6,
        both_signs(np.geomspace(0.01, 1e6, 60)),
        lambda x: 0,
        12,
    ),
    "tanh": Case(
        approximations.tanh,
        np.tanh,
        both_signs(SIZES),
        lambda value: 2e-6,
        both_signs(np.geomspace(0.01, 1e5, 40)),
        lambda x: 0,
        24,
    ),
    "erf": Case(
        approximations.erf,
        scipy.special.erf,
        both_signs(SIZES),
        lambda value: 2e-6,
        both_signs(np.geomspace(0.01, 1e5, 40)),
        lambda x: 0,
        20,
    ),
    "softmax": Case(
        approximations.softmax,
        functools.partial(scipy.special.softmax, axis=-1),
        some_logits(),
        # The logits' differences are rounded to float32.
        lambda value: 2e-6 + 2e-3 * value,
        some_logits(30),
        lambda x: 0,
        12,
    ),
}
each_case = pytest.mark.parametrize("name", CASES)
QUICK = ("exp", "reciprocal", "inverse_sqrt", "log")
"""What others are made of."""


@functools.cache
def reals() -> dict[str, np.ndarray]:
    """All functions, as one program."""
    inputs = {n: jnp.asarray(case.domain, jnp.float32) for n, case in CASES.items()}
    run = jax.jit(lambda xs: {n: CASES[n].approximate(x) for n, x in xs.items()})
    return {n: np.asarray(x, np.float64) for n, x in run(inputs).items()}


def rounded(x: np.ndarray) -> np.ndarray:
    """As float32 has it: the argument's rounding is not the function's error."""
    return x.astype(np.float32).astype(np.float64)


@each_case
def test_errors_are_as_promised_on_reals(name):
    case = CASES[name]
    exact = case.exact(rounded(case.domain))
    assert np.all(np.abs(reals()[name] - exact) <= case.allowed(exact))


def test_a_piecewise_sigmoid_is_a_cut_line_off_by_no_more_than_promised():
    x = np.linspace(-20, 20, 4001)
    value = np.asarray(approximations.piecewise_sigmoid(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(value, np.clip(x + 0.5, 0, 1), atol=1e-6)
    error = np.abs(value - scipy.special.expit(x)).max()
    assert 0.37 < error <= 0.38


def evaluated(where: ring.Ring, inputs: dict[str, Any]) -> Callable[..., Any]:
    """Of fraction bits; these are an argument, so that all is one program."""

    def run(fraction_bits):
        how = private.protocol(ring=where, fraction_bits=fraction_bits, ideal=True)

        def value(name, x):
            shared = private.share(how, SEED, jnp.asarray(x, jnp.float32))
            function = CASES[name].approximate
            return private.reveal(how, private.evaluate(how, SEED, function, shared))

        return {name: value(name, x) for name, x in inputs.items()}

    return jax.jit(run, compiler_options=FAST)


@functools.cache
def on_shares(names: tuple[str, ...]) -> dict[int, dict[str, np.ndarray]]:
    run = evaluated(ring.Z64, {name: CASES[name].on_shares for name in names})
    return {bits: run(jnp.int32(bits)) for bits in FRACTION_BITS}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in QUICK else [pytest.mark.exhaustive])
        for n in CASES
    ],
)
def test_on_shares_errors_are_as_promised_whatever_the_size(name):
    case = CASES[name]
    for bits, found in on_shares((name,)).items():
        step = 2.0**-bits
        x = np.round(rounded(case.on_shares) / step) * step
        exact = case.exact(x)
        error = np.abs(np.asarray(found[name], np.float64) - exact)
        allowed = case.relative(x) * step * np.abs(exact) + case.steps * step
        # And the polynomials' own error, and float32's of what is opened.
        assert np.all(error <= allowed + 5e-7 * np.abs(exact)), bits


def test_in_32_bits_they_saturate_and_never_wrap():
    tiny = np.array([0.0, 2.0**-8, 2.0**-7, -(2.0**-8), 5000.0])
    inputs = {
        "exp": np.array([-1e5, -7.0, 0.0, 9.0, 12.0, 1e5]),
        "reciprocal": tiny,
        "inverse_sqrt": np.abs(tiny),
        "log": np.abs(tiny),
    }
    found = evaluated(ring.Z32, inputs)(jnp.int32(8))
    end = 2.0 ** (16 - 1 / 16)
    exact = {
        "exp": np.array([0, 0, 1, np.exp(9), end, end]),
        "reciprocal": np.array([256, 256, 128, -256, 0]),
        "inverse_sqrt": np.array([16, 16, 2**3.5, 16, 2**-6.14]),
        "log": np.log([2.0**-8, 2.0**-8, 2.0**-7, 2.0**-8, 5000]),
    }
    for name, values in exact.items():
        error = np.abs(np.asarray(found[name]) - values)
        assert np.all(error <= (5 + 0.06 * 256 * np.abs(values)) / 256), name
