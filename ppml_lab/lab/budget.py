"""Privacy budgets of configured runs: calibrate the noise, state what it buys."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

from ppml_lab import base
from ppml_lab.dp import accounting
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.experiment import build
from ppml_lab.lab.loading import DataFacts


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


def epsilons_after(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    delta: float | None,
    rounds: Iterable[int],
) -> list[float | None]:
    """The epsilon, by RDP, of a run's first so many rounds; None where nothing is
    promised.
    """
    algorithm = build(config, hyperparams, facts)
    if delta is None or algorithm.event(1).privacy_unit is None:
        return [None for _ in rounds]
    found = [accounting.epsilon(algorithm.event(count), delta) for count in rounds]
    return [epsilon if math.isfinite(epsilon) else None for epsilon in found]


@functools.lru_cache(maxsize=1024)
def whole_run(
    config: Config, hyperparams: Hyperparams, facts: DataFacts
) -> base.PrivacyEvent:
    """The event of all rounds; cached, because the seeds of a sweep share it."""
    return build(config, hyperparams, facts).event(config.num_rounds)


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
