"""What approximations promise, on reals against float64, and on shares."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ppml_lab.smpc import approximations, private

SEED = jnp.array([31, 32], jnp.uint32)
FRACTION_BITS = (12, 20)


def both_signs(most: float, count: int = 4001) -> np.ndarray:
    """Dense near 0 and up to the ends."""
    near = np.linspace(-min(most, 8), min(most, 8), count)
    return np.concatenate([near, np.linspace(-most, most, count)])


def some_logits() -> np.ndarray:
    """Rows of up to 100 classes, most with differences up to 120; one is all equal."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(0.01, 120, 200)[:, None]
    return np.concatenate([spread * rng.uniform(size=(200, 100)), np.zeros((1, 100))])


@dataclasses.dataclass(frozen=True)
class Case:
    """What a function promises.

    Attributes:
      approximate: The function.
      exact: In float64.
      domain: Where it is good.
      allowed: Its largest error, given arguments and exact values.
      outside: Where it is not.
      on_shares: Arguments of the fixed-point numbers.
      steps: Their error on top, in fixed-point steps.
    """

    approximate: Callable[..., Any]
    exact: Callable[..., Any]
    domain: np.ndarray
    allowed: Callable[[np.ndarray, np.ndarray], Any]
    outside: np.ndarray
    on_shares: np.ndarray
    steps: Callable[[np.ndarray, np.ndarray], Any]


def exp_steps(x: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Eight squarings `y -> y * y` make an error e to `2 y e`, and add a step: from one
    step and a half, with y at most the larger of the value and 1.
    """
    del x
    return 2**8 * 2.5 * np.maximum(value, 1)


CASES = {
    "exp": Case(
        approximations.exp,
        np.exp,
        np.linspace(-12, 12, 4001),
        # And 2^8 roundings of 1 + x / 2^8 to float32.
        lambda x, value: (1.05 * x**2 / 2**9 + 2.0**-14) * value,
        np.array([-600.0, -520.0]),
        np.linspace(-8, 2, 201),
        exp_steps,
    ),
    "reciprocal": Case(
        approximations.reciprocal,
        lambda x: 1 / x,
        np.geomspace(1e-2, 100, 4001),
        lambda x, value: 1e-4 * value,
        np.array([1e-4, 5e-4, 300.0, 1000.0]),
        np.geomspace(0.05, 100, 201),
        # The argument's half step, and the last step's three roundings.
        lambda x, value: 0.5 * value**2 + 2 * value + 3,
    ),
    "inverse_sqrt": Case(
        approximations.inverse_sqrt,
        lambda x: 1 / np.sqrt(x),
        np.geomspace(0.1, 150, 4001),
        lambda x, value: 1e-2 * value,
        np.array([1e-3, 1e-2, 400.0, 1000.0]),
        np.geomspace(0.1, 150, 201),
        # The start is 2.2 exponentials, whose errors no step enlarges: it corrects.
        lambda x, value: 2.2 * exp_steps(x, value) + 10 * value**3,
    ),
    "sigmoid": Case(
        approximations.sigmoid,
        scipy.special.expit,
        both_signs(255),
        lambda x, value: 1e-3,
        np.array([-700.0, -600.0, 600.0, 700.0]),
        both_signs(100, 151),
        # The sigmoid's slope in the exponential is at most 1.
        lambda x, value: exp_steps(x, value) + 10,
    ),
    "tanh": Case(
        approximations.tanh,
        np.tanh,
        both_signs(127),
        lambda x, value: 2e-3,
        np.array([-350.0, -300.0, 300.0, 350.0]),
        both_signs(50, 151),
        lambda x, value: 2 * (exp_steps(x, value) + 10),
    ),
    "softmax": Case(
        approximations.softmax,
        functools.partial(scipy.special.softmax, axis=-1),
        some_logits(),
        # Each exponential is off by at most max(x^2 exp(-x)) / 2^9 = 0.11%, and their
        # sum relatively by no more than 1% where it is a hundred times that.
        lambda x, value: 1.1e-3 + 1e-2 * value,
        np.stack([np.zeros(1000), np.repeat([0.0, -700.0], 500)]),
        some_logits()[::10, :10],
        # Of an exponential, and of a sum of ten that divides.
        lambda x, value: 11 * 2**8 * 2.5 + 10,
    ),
}
each_case = pytest.mark.parametrize("name", CASES)


def on_reals(name: str, x: np.ndarray) -> np.ndarray:
    approximate = jax.jit(CASES[name].approximate)
    return np.asarray(approximate(jnp.asarray(x, jnp.float32)), np.float64)


def rounded(x: np.ndarray) -> np.ndarray:
    """As float32 has it: the argument's rounding is not the function's error."""
    return x.astype(np.float32).astype(np.float64)


@each_case
def test_errors_are_as_promised_within_the_domain(name):
    case = CASES[name]
    x = rounded(case.domain)
    exact = case.exact(x)
    error = np.abs(on_reals(name, x) - exact)
    assert np.all(error <= case.allowed(x, exact))
    assert np.all(np.isfinite(error))


@each_case
def test_errors_are_larger_outside_of_the_domain(name):
    case = CASES[name]
    x = rounded(case.outside)
    exact = case.exact(x)
    error = np.abs(on_reals(name, x) - exact)
    most = np.broadcast_to(case.allowed(x, exact), error.shape)
    worse = ~(error <= 5 * most)
    assert np.all(worse.reshape(len(x), -1).any(1))


def test_the_error_of_exp_grows_as_a_square_until_nothing_is_right():
    x = np.array([-8.0, -4.0, -2.0, 2.0, 4.0, 8.0])
    relative = 1 - on_reals("exp", x) / np.exp(x)
    np.testing.assert_allclose(relative, x**2 / 2**9, rtol=0.1)
    far = np.array([-80.0, 80.0])
    assert np.all(on_reals("exp", far) < 0.01 * np.exp(far))


def test_a_piecewise_sigmoid_is_a_cut_line_off_by_no_more_than_promised():
    x = np.linspace(-20, 20, 4001)
    value = np.asarray(approximations.piecewise_sigmoid(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(value, np.clip(x + 0.5, 0, 1), atol=1e-6)
    error = np.abs(value - scipy.special.expit(x)).max()
    assert 0.37 < error <= 0.38


@functools.cache
def on_shares(names: tuple[str, ...]) -> dict[str, dict[int, np.ndarray]]:
    """By name and fraction bits; these are an argument, so that all is one program."""
    cases = {name: CASES[name] for name in names}

    def run(fraction_bits):
        protocol = private.protocol(fraction_bits=fraction_bits, ideal=True)

        def value(case):
            x = jnp.asarray(case.on_shares, jnp.float32)
            shared = private.share(protocol, SEED, x)
            result = private.evaluate(protocol, SEED, case.approximate, shared)
            return private.reveal(protocol, result)

        return {name: value(case) for name, case in cases.items()}

    run = jax.jit(run)
    values = {bits: run(jnp.int32(bits)) for bits in FRACTION_BITS}
    return {
        name: {bits: np.asarray(values[bits][name], np.float64) for bits in values}
        for name in cases
    }


# It is a sigmoid, times two, less one.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.exhaustive] if name == "tanh" else [])
        for name in CASES
    ],
)
def test_on_shares_fixed_point_numbers_add_so_many_steps(name):
    case = CASES[name]
    x = rounded(case.on_shares)
    exact, worst = case.exact(x), []
    others = tuple(other for other in CASES if other != "tanh")
    names = ("tanh",) if name == "tanh" else others
    for bits, values in on_shares(names)[name].items():
        steps = case.steps(x, exact)
        most = case.allowed(x, exact) + steps * 2.0**-bits
        assert np.all(np.abs(values - exact) <= most)
        # What fixed point alone does: the approximation's own error taken out.
        worst.append(np.max(np.abs(values - on_reals(name, x)) / steps))
    assert worst[1] < worst[0] / 2**6
