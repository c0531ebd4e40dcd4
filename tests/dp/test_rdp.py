"""RDP of the sampled Gaussian against 40-digit quadrature and closed forms."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest

from ppml_lab.dp import accounting, rdp

REFERENCE = pathlib.Path(__file__).parent / "reference" / "rdp_vectors.csv"
ROWS = list(csv.DictReader(REFERENCE.read_text().splitlines()))


@pytest.mark.parametrize("row", ROWS)
def test_reference_vectors(row: dict[str, str]) -> None:
    found = rdp.subsampled_gaussian(
        float(row["sampling_prob"]),
        float(row["noise_multiplier"]),
        np.array([float(row["order"])]),
    )
    exact = float(row["rdp_mpmath_quadrature_40digits"])
    assert found[0] == pytest.approx(exact, rel=1e-10)


def test_without_sampling_it_is_the_gaussian_mechanism() -> None:
    orders = np.array([1.5, 2.0, 7.0])
    found = rdp.subsampled_gaussian(1.0, 3.0, orders)
    np.testing.assert_allclose(found, orders / 18)


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


def test_the_accountant_uses_it() -> None:
    from ppml_lab import base
    from ppml_lab.dp import events

    event = events.compose(events.poisson(0.01, events.gaussian(0.5)), 5000)
    found = accounting.epsilon(
        base.PrivacyEvent(event, "add_or_remove_one", "client"), 1e-5
    )
    # Opacus, whose fractional orders are exact, beside dp-accounting's 32.768.
    assert found == pytest.approx(31.974, abs=2e-3)
