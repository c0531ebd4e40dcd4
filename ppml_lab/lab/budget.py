"""Privacy budgets of configured runs: calibrate the noise, state what it buys."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ppml_lab import base
from ppml_lab.dp import accounting, ledger
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.experiment import build
from ppml_lab.lab.loading import DataFacts, load_data


def calibrated(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    target_epsilon: float,
    delta: float,
) -> Hyperparams:
    """`hyperparams` with the least noise whose epsilon, by RDP, meets the target.

    Raises:
      ValueError: If no noise reaches the target, or `config` has no private mechanism
        and the target is finite.
    """
    if target_epsilon == float("inf"):
        return hyperparams._replace(noise_multiplier=0.0)
    noise = accounting.calibrate_noise_multiplier(
        lambda z: build(config, hyperparams._replace(noise_multiplier=z), facts).event(
            config.num_rounds
        ),
        target_epsilon,
        delta,
    )
    return hyperparams._replace(noise_multiplier=noise)


Noises = dict[tuple[Config, float, float], list[tuple[float, base.PrivacyEvent]]]
"""By configuration, target epsilon and delta: noise multipliers, and the events of the
runs for which they were found."""


def calibrated_once(
    config: Config,
    hyperparams: Hyperparams,
    target_epsilon: float,
    delta: float,
    noises: Noises,
) -> Hyperparams:
    """As `calibrated`, but one search for all hyperparameters that spend alike.

    A noise found before is taken if the run's event with it is the same, such as at
    another learning rate. `noises` is what earlier calls found, and grows.
    """
    facts = load_data(config.data).facts
    found = noises.setdefault((config, target_epsilon, delta), [])
    for noise, event in found:
        noisy = hyperparams._replace(noise_multiplier=noise)
        if whole_run(config, noisy, facts) == event:
            return noisy
    noisy = calibrated(config, hyperparams, facts, target_epsilon, delta)
    found.append((noisy.noise_multiplier, whole_run(config, noisy, facts)))
    return noisy


@functools.lru_cache(maxsize=1024)
def events_of(
    config: Config, hyperparams: Hyperparams, facts: DataFacts
) -> Callable[[int], base.PrivacyEvent]:
    """`num_rounds -> event` of a run; cached, because the seeds of a sweep share it.

    Raises:
      ValueError: If the run cannot be built.
    """
    return build(config, hyperparams, facts).event


def whole_run(
    config: Config, hyperparams: Hyperparams, facts: DataFacts
) -> base.PrivacyEvent:
    """The event of all rounds."""
    return events_of(config, hyperparams, facts)(config.num_rounds)


@functools.lru_cache(maxsize=8192)
def epsilon_after(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    delta: float | None,
    num_rounds: int,
) -> float | None:
    """The epsilon, by RDP, of a run's first so many rounds; None where nothing is
    promised.
    """
    event = events_of(config, hyperparams, facts)(num_rounds)
    if delta is None or event.privacy_unit is None:
        return None
    epsilon = accounting.epsilon(event, delta)
    return epsilon if math.isfinite(epsilon) else None


def spent(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    delta: float | None,
    num_rounds: int,
) -> dict[str, Any]:
    """What a run's first so many rounds released and cost, as plain values."""
    event = events_of(config, hyperparams, facts)(num_rounds)
    return {
        "rounds": num_rounds,
        "mechanisms": ledger.in_words(event),
        "privacy_unit": event.privacy_unit,
        "neighboring_relation": event.neighboring_relation,
        "delta": delta,
        "epsilon": epsilon_after(config, hyperparams, facts, delta, num_rounds),
    }


def statement(
    config: Config, hyperparams: Hyperparams, facts: DataFacts, delta: float | None
) -> dict[str, Any]:
    """What the whole run guarantees, as columns of a results table.

    Returns:
      `epsilon_rdp` (the headline), `epsilon_pld` (None where no PLD exists), `delta`,
      `noise_multiplier`, `privacy_unit` and `neighboring_relation`; without privacy
      epsilon is inf and the rest None.

    Raises:
      ValueError: If the run is private and no delta is given.
    """
    event = whole_run(config, hyperparams, facts)
    if event.privacy_unit is None:
        infinite = {"epsilon_rdp": float("inf"), "epsilon_pld": float("inf")}
        return infinite | dict.fromkeys(
            ("delta", "noise_multiplier", "privacy_unit", "neighboring_relation")
        )
    if delta is None:
        raise ValueError(f"privacy '{config.privacy}' needs a delta to state epsilon")
    has_pld = accounting.supports(event, "pld")
    return {
        "epsilon_rdp": accounting.epsilon(event, delta, "rdp"),
        "epsilon_pld": accounting.epsilon(event, delta, "pld") if has_pld else None,
        "delta": delta,
        "noise_multiplier": float(hyperparams.noise_multiplier),
        "privacy_unit": event.privacy_unit,
        "neighboring_relation": event.neighboring_relation,
    }
