"""RDP of the sampled Gaussian against 40-digit quadrature and closed forms, on the host
and on the device, and its conversion to epsilon.
"""

from __future__ import annotations

import csv
import functools
import pathlib
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base
from ppml_lab.dp import accounting, events, rdp

REFERENCE = pathlib.Path(__file__).parent / "reference" / "rdp_vectors.csv"
ROWS = list(csv.DictReader(REFERENCE.read_text().splitlines()))
PRECISIONS = {"float32": 1e-4, "float64": 1e-9}
precisions = pytest.mark.parametrize("dtype", PRECISIONS)


@functools.cache
def compiled(orders: tuple[float, ...]) -> Any:
    return jax.jit(lambda q, s: rdp.subsampled_gaussian(q, s, np.array(orders)))


def on_device(sampling_prob: float, noise_multiplier: float, orders: Any) -> Any:
    return compiled(tuple(orders))(sampling_prob, noise_multiplier)


@pytest.mark.parametrize("row", ROWS)
def test_reference_vectors(row: dict[str, str]) -> None:
    found = rdp.subsampled_gaussian(
        float(row["sampling_prob"]),
        float(row["noise_multiplier"]),
        np.array([float(row["order"])]),
    )
    exact = float(row["rdp_mpmath_quadrature_40digits"])
    assert found[0] == pytest.approx(exact, 1e-12, 0)


@precisions
def test_reference_vectors_compiled(dtype: str) -> None:
    orders = np.array(sorted({float(row["order"]) for row in ROWS}))
    points = [(row["sampling_prob"], row["noise_multiplier"]) for row in ROWS]
    with jax.enable_x64(dtype == "float64"):
        q, s = jnp.asarray(np.array(points, float).T)
        found = jax.jit(jax.vmap(lambda q, s: rdp.subsampled_gaussian(q, s, orders)))(
            q, s
        )
        assert found.dtype == dtype
        for row, vector in zip(ROWS, np.asarray(found), strict=True):
            (place,) = np.flatnonzero(orders == float(row["order"]))
            exact = float(row["rdp_mpmath_quadrature_40digits"])
            assert vector[place] == pytest.approx(exact, PRECISIONS[dtype], 0)


@precisions
@pytest.mark.parametrize("sampling_prob", [1e-6, 1e-3, 0.5, 0.999])
@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 100.0])
def test_host_and_device_agree_at_all_orders(
    sampling_prob: float, noise_multiplier: float, dtype: str
) -> None:
    q, s = float(np.float32(sampling_prob)), float(np.float32(noise_multiplier))
    with jax.enable_x64(dtype == "float64"):
        found = on_device(q, s, rdp.ORDERS)
        assert isinstance(found, jax.Array)
    np.testing.assert_allclose(
        found, rdp.subsampled_gaussian(q, s, rdp.ORDERS), rtol=PRECISIONS[dtype]
    )


@pytest.mark.parametrize("sampling_prob", [1e-6, 0.01, 0.9])
@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 100.0])
def test_closed_forms(sampling_prob: float, noise_multiplier: float) -> None:
    q, s = sampling_prob, noise_multiplier
    two = q**2 * np.expm1(s**-2)
    three = 3 * (1 - q) * two + q**3 * np.expm1(3 * s**-2)
    found = rdp.subsampled_gaussian(q, s, np.array([2.0, 3.0]))
    np.testing.assert_allclose(found, [np.log1p(two), np.log1p(three) / 2], rtol=1e-12)
    np.testing.assert_allclose(
        on_device(q, s, np.array([2.0, 3.0])), found, rtol=PRECISIONS["float32"]
    )


def test_limits_at_fractional_orders() -> None:
    orders = np.array([1.05, 2.5, 10.9])
    # Little is moved, with little probability: only the second moment of u counts.
    rare = rdp.subsampled_gaussian(1e-6, 100.0, orders)
    np.testing.assert_allclose(rare, orders / 2 * 1e-12 * np.expm1(1e-4), rtol=1e-6)
    # Being sampled is all that counts: A is q^a times the Gaussian's.
    loud = rdp.subsampled_gaussian(0.1, 0.05, orders[1:])
    plain = orders[1:] / (2 * 0.05**2)
    np.testing.assert_allclose(
        loud, plain + orders[1:] * np.log(0.1) / (orders[1:] - 1), rtol=1e-9
    )


def test_all_or_nothing() -> None:
    orders = np.array([1.5, 2.0, 7.0])
    for compute in (rdp.subsampled_gaussian, on_device):
        everyone = compute(1.0, 3.0, orders)
        np.testing.assert_allclose(everyone, orders / 18, rtol=1e-6)
        np.testing.assert_array_equal(compute(0.0, 3.0, orders), 0 * orders)
    # A compiled sweep may hold a point without privacy.
    np.testing.assert_array_equal(on_device(0.5, 0.0, orders), 0 * orders + np.inf)
    np.testing.assert_array_equal(on_device(1.0, 0.0, orders), 0 * orders + np.inf)


def test_high_fractions_on_the_device() -> None:
    orders = np.array([1.5, 7.0, 38.5])
    with jax.enable_x64(True):
        found = on_device(0.01, 0.3, orders)
    np.testing.assert_allclose(
        found, rdp.subsampled_gaussian(0.01, 0.3, orders), rtol=1e-9
    )


@pytest.mark.parametrize("noise_multiplier", [0.05, 0.3, 1.0, 5.0, 300.0])
@pytest.mark.parametrize("sampling_prob", [1e-5, 0.01, 0.5, 0.999])
def test_orders_join_smoothly(sampling_prob: float, noise_multiplier: float) -> None:
    """RDP grows with the order, so integers and fractions, computed apart, must fit."""
    orders = np.sort(np.concatenate([np.arange(2.0, 40), np.arange(1.05, 39, 0.5)]))
    found = rdp.subsampled_gaussian(sampling_prob, noise_multiplier, orders)
    assert np.all(np.isfinite(found))
    assert np.all(found > 0)
    assert np.all(np.diff(found) > -1e-9 * found[1:])
    # (order - 1) * RDP is convex in the order.
    moment = (orders - 1) * found
    slopes = np.diff(moment) / np.diff(orders)
    assert np.all(np.diff(slopes) > -1e-7 * np.abs(slopes[1:]))


def test_gradients_are_finite() -> None:
    def epsilon(s: jax.Array, q: jax.Array) -> jax.Array:
        values = rdp.subsampled_gaussian(q, s, rdp.ORDERS)
        return rdp.epsilon_of_rdp(1000.0 * values, rdp.ORDERS, 1e-5)

    slope = jax.jit(jax.grad(epsilon))
    for q, expected in ((0.0, 0.0), (0.01, -4.852), (0.5, -421.0), (1.0, -1150.0)):
        assert slope(1.0, q) == pytest.approx(expected, rel=1e-3)


def test_a_compiled_run_knows_its_epsilon() -> None:
    """One vmapped program over noise multipliers, one epsilon per round."""
    noises, prob, delta = np.array([0.6, 1.0, 4.0], np.float32), 0.02, 1e-5

    def run(noise: jax.Array) -> jax.Array:
        once = rdp.subsampled_gaussian(prob, noise, rdp.ORDERS)

        def one_round(spent: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            spent = spent + once
            return spent, rdp.epsilon_of_rdp(spent, rdp.ORDERS, delta)

        return jax.lax.scan(one_round, jnp.zeros_like(once), length=20)[1]

    found = jax.jit(jax.vmap(run))(noises)
    for noise, curve in zip(noises.tolist(), found, strict=True):
        once = events.poisson(prob, events.gaussian(noise))
        for num_rounds in (1, 7, 20):
            event = base.PrivacyEvent(
                events.compose(once, num_rounds), "add_or_remove_one", "client"
            )
            expected = accounting.epsilon(event, delta)
            assert curve[num_rounds - 1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.3])
@pytest.mark.parametrize("scale", [1e-13, 1e-3, 1.0, 1e3])
def test_epsilon_of_rdp_is_dp_accountings(scale: float, delta: float) -> None:
    orders = rdp.ORDERS
    values = scale * rdp.subsampled_gaussian(0.1, 2.0, orders)
    expected, _ = dp_accounting.rdp.compute_epsilon(
        orders.tolist(), values.tolist(), delta
    )
    found = rdp.epsilon_of_rdp(values, orders, delta)
    assert found == pytest.approx(float(expected), rel=1e-12)
    in_jax = jax.jit(lambda v, d: rdp.epsilon_of_rdp(v, orders, d))(values, delta)
    assert in_jax == pytest.approx(float(expected), rel=1e-4)


def test_epsilon_without_any_bound_is_infinite() -> None:
    unknown = np.full_like(rdp.ORDERS, np.inf)
    assert rdp.epsilon_of_rdp(unknown, rdp.ORDERS, 1e-5) == np.inf
    assert rdp.epsilon_of_rdp(jnp.asarray(unknown), rdp.ORDERS, 1e-5) == np.inf
    np.testing.assert_array_equal(
        rdp.delta_of_rdp(unknown, rdp.ORDERS, np.array([0.0, 5.0, np.inf])), [1, 1, 1]
    )


def test_delta_of_rdp_inverts_epsilon() -> None:
    values = 100 * rdp.subsampled_gaussian(0.1, 2.0, rdp.ORDERS)
    deltas = np.array([1e-10, 1e-6, 1e-3])
    epsilons = np.array([rdp.epsilon_of_rdp(values, rdp.ORDERS, d) for d in deltas])
    found = rdp.delta_of_rdp(values, rdp.ORDERS, epsilons)
    np.testing.assert_allclose(found, deltas, rtol=1e-9)


def test_bad_arguments_are_named() -> None:
    orders = np.array([1.0, 2.0])
    with pytest.raises(ValueError, match=r"orders must be above 1, got 1\.0"):
        rdp.subsampled_gaussian(0.1, 1.0, orders)
    with pytest.raises(ValueError, match=r"sampling_prob must lie in \[0, 1\], got 2"):
        rdp.subsampled_gaussian(2.0, 1.0, orders + 1)
    with pytest.raises(ValueError, match="noise_multiplier must be positive and fini"):
        rdp.subsampled_gaussian(0.5, 0.0, orders + 1)


def test_the_accountant_uses_it() -> None:
    event = events.compose(events.poisson(0.01, events.gaussian(0.5)), 5000)
    found = accounting.epsilon(
        base.PrivacyEvent(event, "add_or_remove_one", "client"), 1e-5
    )
    # Opacus, whose fractional orders are exact, beside dp-accounting's 32.768.
    assert found == pytest.approx(31.974, abs=2e-3)
