"""Privacy budgets of configured runs: calibrate the noise, state what it buys."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from ppml_lab import arguments, base, checks
from ppml_lab.dp import accounting, ledger
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.experiment import build
from ppml_lab.lab.identity import key_identity
from ppml_lab.lab.loading import DataFacts, facts_of


@arguments.checked
def calibrated(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    target_epsilon: float,
    delta: float,
) -> Hyperparams:
    """`hyperparams` with the least noise whose epsilon meets the target, by the
    `accountant` of `statement`: PLD where there is one, else RDP.

    Raises:
      ValueError: If no noise reaches the target, or `config` has no private mechanism
        and the target is finite.
    """
    checks.positive("target_epsilon", target_epsilon, allow_inf=True)
    checks.probability("delta", delta, allow_one=False)
    if target_epsilon == float("inf"):
        return hyperparams._replace(noise_multiplier=0.0)
    if config.clipping == "adaptive":
        # Costs the same, and bears all the noise that a search tries.
        config = dataclasses.replace(config, clipping="flat")

    def event(noise: float) -> base.PrivacyEvent:
        noisy = hyperparams._replace(noise_multiplier=noise)
        return build(config, noisy, facts).event(config.num_rounds)

    if event(1.0).privacy_unit is None:
        raise ValueError(
            f"target_epsilon {target_epsilon:g} cannot be met: privacy "
            f"'{config.privacy}' promises nothing, whatever the noise; choose another "
            "privacy, or target_epsilon inf"
        )
    noise = accounting.calibrate_noise_multiplier(event, target_epsilon, delta, "best")
    return hyperparams._replace(noise_multiplier=noise)


Noises = dict[tuple[float, float], list[tuple[float, base.PrivacyEvent]]]
"""By target epsilon and delta: noise multipliers, and the whole runs' events for which
they were found."""


def calibrated_once(
    config: Config,
    hyperparams: Hyperparams,
    target_epsilon: float,
    delta: float,
    noises: Noises,
) -> Hyperparams:
    """As `calibrated`, but one search for all runs that spend alike.

    A noise found before is taken if the run's own event with it is the same to the last
    number, such as at another learning rate or with another secure sum; nothing else
    decides it. `noises` is what earlier calls found, and grows.
    """
    facts = facts_of(config.data)
    found = noises.setdefault((target_epsilon, delta), [])
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
    """What a run's first so many rounds released and cost, and whose randomness they
    took, as plain values.
    """
    event = events_of(config, hyperparams, facts)(num_rounds)
    return {
        "rounds": num_rounds,
        "key": key_identity(config, hyperparams, facts),
        "mechanisms": ledger.in_words(event),
        "privacy_unit": event.privacy_unit,
        "neighboring_relation": event.neighboring_relation,
        "delta": delta,
        "epsilon": epsilon_after(config, hyperparams, facts, delta, num_rounds),
    }


@arguments.checked
def statement(
    config: Config, hyperparams: Hyperparams, facts: DataFacts, delta: float | None
) -> dict[str, Any]:
    """What the whole run guarantees, as columns of a results table.

    Returns:
      `epsilon_rdp`, `epsilon_pld` (None where no PLD exists), `accountant` (the one of
      the two, "pld" where it exists, that a target_epsilon is met by),
      `epsilon_public` (who sees the released models) and `epsilon_server` (who runs the
      protocol, see `accounting.epsilon_server`), `delta`, `noise_multiplier`,
      `privacy_unit`, `neighboring_relation` and `cut_share`, what of delta the cut of
      the noise takes (`accounting.cut_share`); without privacy epsilon is inf and the
      rest None.

    Raises:
      ValueError: If the run is private and no delta is given.
    """
    if delta is not None:
        checks.probability("delta", delta, allow_one=False)
    event = whole_run(config, hyperparams, facts)
    if event.privacy_unit is None:
        kinds = ("rdp", "pld", "public", "server")
        infinite = {f"epsilon_{kind}": float("inf") for kind in kinds}
        return infinite | dict.fromkeys(
            (
                "accountant",
                "delta",
                "noise_multiplier",
                "privacy_unit",
                "neighboring_relation",
                "cut_share",
            )
        )
    if delta is None:
        raise ValueError(f"privacy '{config.privacy}' needs a delta to state epsilon")
    stated = accounting.stated(event, delta)
    return {
        "epsilon_rdp": accounting.epsilon(event, delta, "rdp"),
        "epsilon_pld": stated.epsilon if stated.accountant == "pld" else None,
        "accountant": stated.accountant,
        "epsilon_public": stated.epsilon,
        "epsilon_server": accounting.epsilon_server(event, delta),
        "delta": delta,
        "noise_multiplier": float(hyperparams.noise_multiplier),
        "privacy_unit": event.privacy_unit,
        "neighboring_relation": event.neighboring_relation,
        "cut_share": accounting.cut_share(event, delta),
    }
