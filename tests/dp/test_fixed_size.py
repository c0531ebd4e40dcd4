"""What the page on cohorts of a fixed size says, and that it says it."""

from __future__ import annotations

import pathlib

import pytest

import ppml_lab.dp
from ppml_lab.base import PrivacyEvent
from ppml_lab.dp import accounting, events

PAGE = pathlib.Path(ppml_lab.dp.__file__).parent / "FIXED_SIZE.md"


def run(step, num_rounds, relation):
    return PrivacyEvent(events.compose(step, num_rounds), relation, "client")


@pytest.mark.parametrize(
    ("population", "cohort", "noise", "rounds", "delta", "expected"),
    [
        pytest.param(
            *(60_000, 256, 1.1, 14_040, 1e-5, "| 24.06 | 16.37 | 14.71 | 2.38 |"),
            marks=pytest.mark.exhaustive,
        ),
        (539, 200, 2.0, 100, 1e-3, "| 61.40 | 24.74 | 22.18 | 7.49 |"),
    ],
)
def test_the_numbers_of_the_page(population, cohort, noise, rounds, delta, expected):
    half = events.gaussian(noise / 2)
    fixed = run(events.fixed_size(population, cohort, half), rounds, "replace_one")
    prob = cohort / population
    form = run(events.poisson(prob, half), rounds, "add_or_remove_one")
    own = events.poisson(prob, events.gaussian(noise))
    own = run(own, rounds, "add_or_remove_one")
    found = [
        accounting.epsilon(fixed, delta),
        accounting.epsilon(form, delta),
        accounting.epsilon(form, delta, "pld"),
        accounting.epsilon(own, delta, "pld"),
    ]
    assert "| " + " | ".join(f"{value:.2f}" for value in found) + " |" == expected
    assert expected in PAGE.read_text()
