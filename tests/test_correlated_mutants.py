"""Correlated noise with planted bugs, each of which the contract must catch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import audit, base, dp, federated, random
from ppml_lab.audit import worlds
from ppml_lab.dp import events, strategies

N, CLIP, NOISE, PART, ROUNDS = worlds.NUM_ROWS, 0.5, 0.8, 0.6, 4
EVERYONE = federated.everyone(N)
TURNS = federated.min_separation(N, 3)
RIGHT = dp.correlated_gaussian(CLIP, NOISE, PART)


def subject(mechanism=RIGHT, sampler=EVERYONE, stated=EVERYONE, num_rounds=ROUNDS):
    """What a mechanism does, and the claims of the right one."""
    found, claims = (
        audit.of_mechanism(
            mechanism._replace(event=RIGHT.event),
            one,
            num_rounds,
            noise=NOISE,
            mixing=(1.0, -PART),
        )
        for one in (sampler, stated)
    )
    return found._replace(event=claims.event, pattern=claims.pattern)


def noised(noise_of: Callable, **fields) -> base.PrivacyMechanism:
    """A mechanism whose noise is `noise_of(key, state)`, times the sensitivity."""

    def privatize(key, state, total, sensitivity):
        noise = worlds.as_tree(NOISE * sensitivity * noise_of(key, state))
        noisy = jax.tree.map(jnp.add, total, noise)
        return noisy, state._replace(releases=state.releases + 1)

    return RIGHT._replace(privatize=privatize, **fields)


def fresh(state, ago, place=0):
    """The noise of so many rounds ago; none before the first."""
    number = state.releases - ago
    drawn = random.normal(random.child(state.seed, number, place), worlds.DIMENSION)
    return jnp.where(number >= 0, drawn, 0.0)


def drawn_again_otherwise(key, state):
    return fresh(state, 0) - PART * fresh(state, 1, place=1)


def wrong_sign(key, state):
    return fresh(state, 0) + PART * fresh(state, 1)


def key_of_the_round(key, state):
    """Nothing of the last round's comes again: its key is gone."""
    own, last = jax.random.split(key)
    return jax.random.normal(own, (worlds.DIMENSION,)) - PART * jax.random.normal(
        last, (worlds.DIMENSION,)
    )


def before_the_first_round(key, state):
    number = state.releases - 1
    last = random.normal(random.child(state.seed, number, 0), worlds.DIMENSION)
    return fresh(state, 0) - PART * last


def noise_of_the_run_s_first_round(key, state):
    """As after a resume that starts the count again."""
    return fresh(state._replace(releases=jnp.int32(0)), 0)


def one_key_for_all(key, state):
    state = state._replace(seed=random.seed(jax.random.key(0)))
    return fresh(state, 0) - PART * fresh(state, 1)


def sensitivity_of_one_participation():
    column = strategies.column((PART,), ROUNDS)
    once = base.Participation("member", 1, 1, 1.0)
    found = subject()
    moved = strategies.sensitivity(column, once)
    return found._replace(
        event=found.event._replace(event=events.gaussian(NOISE / moved))
    )


def one_round_too_soon():
    """Comes again after two rounds, where three are stated."""
    return subject(sampler=federated.min_separation(N, 4), stated=TURNS)


class Mutant(NamedTuple):
    """What is broken, and who must find it."""

    make: Callable[[], audit.Subject]
    detector: str
    is_quick: bool = False


MUTANTS = {
    "noise drawn again is another": Mutant(
        lambda: subject(noised(drawn_again_otherwise)), "noise", True
    ),
    "wrong sign": Mutant(lambda: subject(noised(wrong_sign)), "noise"),
    "the round's key": Mutant(lambda: subject(noised(key_of_the_round)), "noise"),
    "noise before the first round": Mutant(
        lambda: subject(noised(before_the_first_round)), "noise"
    ),
    "count that starts again": Mutant(
        lambda: subject(noised(noise_of_the_run_s_first_round)), "noise"
    ),
    "hard-coded seed": Mutant(lambda: subject(noised(one_key_for_all)), "noise"),
    "sensitivity of one participation": Mutant(
        sensitivity_of_one_participation, "audit"
    ),
    "one round too soon": Mutant(one_round_too_soon, "participation"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if mutant.is_quick else pytest.mark.exhaustive)
        for name, mutant in MUTANTS.items()
    ],
)
def test_a_broken_mechanism_is_caught_by_the_detector_it_names(name):
    make, detector, _ = MUTANTS[name]
    report = audit.check_mechanism(make(), detectors=(detector,), num_runs=2000)
    assert report.refuted_by == (detector,), report


def test_the_one_without_a_bug_passes():
    """The audit, too, in audit/test_contract.py."""
    detectors = ("replay", "noise", "participation", "rounds", "state")
    report = audit.check_mechanism(subject(), detectors=detectors)
    assert report.passed, report


@pytest.mark.exhaustive
@pytest.mark.parametrize("noise_of", [drawn_again_otherwise, wrong_sign])
def test_rounds_that_correlate_otherwise_than_claimed_are_found(noise_of):
    """Also 2^30 rounds on: what is claimed is taken off what is seen."""
    report = audit.check_mechanism(subject(noised(noise_of)), detectors=("rounds",))
    assert report.refuted_by == ("rounds",), report


def known_order(sampler):
    """The sampler, of an order in which the canary, row 0, is first."""
    key = next(
        key
        for key in jax.random.split(jax.random.key(0), 100)
        if 0 in np.asarray(sampler.sample(key, sampler.init(key))[0].indices)
    )
    return sampler._replace(init=lambda _: sampler.init(key))


@pytest.mark.exhaustive
def test_the_audit_is_sharp_where_the_order_is_known():
    """Claims of what a member moves, in its worst order, hold, and not far below."""
    sampler = known_order(TURNS)
    found = subject(sampler=sampler, stated=TURNS, num_rounds=7)
    pattern = TURNS.participation(7)
    moved = strategies.sensitivity(strategies.column((PART,), 7), pattern)
    for factor, passes in ((1.0, True), (1.4, False)):
        claim = found.event._replace(event=events.gaussian(factor * NOISE / moved))
        report = audit.check_mechanism(
            found._replace(event=claim), detectors=("audit",), num_runs=4000
        )
        assert report.passed == passes, report


def test_what_noise_is_made_of_is_told_right():
    with pytest.raises(ValueError, match="mixing must begin with 1"):
        audit.of_mechanism(RIGHT, EVERYONE, 2, noise=NOISE, mixing=(-PART,))
    with pytest.raises(ValueError, match="noise_multiplier or the argument noise"):
        audit.of_mechanism(RIGHT, EVERYONE, 2)
