"""Privacy budgets of setups: calibrate noise, state guarantees, tell what is spent."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ppml_lab import arguments, base, checks
from ppml_lab.dp import accounting, ledger
from ppml_lab.lab.building import events_of
from ppml_lab.lab.setup import check_setup
from ppml_lab.lab.tree import paths

_PROBE = 1.2345
"""A noise that no user would set."""


@arguments.checked
def calibrated(setup: Any, target_epsilon: float, delta: float) -> Any:
    """Returns the setup with the least noise whose epsilon meets the target.

    Epsilon is by the `accountant` of `statement`: PLD where there is one, else RDP. The
    noise is a float32, as programs take it, rounded up.

    Raises:
      ValueError: If no noise reaches the target, or the setup has no noise and the
        target is finite.
    """
    check_setup(setup)
    checks.positive("target_epsilon", target_epsilon, allow_inf=True)
    checks.probability("delta", delta, allow_one=False)
    if not hasattr(setup, "with_noise"):
        raise ValueError(
            f"target_epsilon {target_epsilon:g} cannot be met: {type(setup).__name__} "
            "has no method with_noise(z), which sets its noise"
        )
    try:
        if target_epsilon == float("inf"):
            return _silent(setup)
        setup.with_noise(1.0)
    except ValueError as error:
        raise ValueError(
            f"target_epsilon {target_epsilon:g} cannot be met: {error}"
        ) from error
    own = getattr(setup, "accounted", None)
    searched = setup if own is None else own()

    def event(noise: float) -> base.PrivacyEvent:
        return whole_run(searched.with_noise(noise))

    if event(1.0).privacy_unit is None:
        raise ValueError(
            f"target_epsilon {target_epsilon:g} cannot be met: {type(setup).__name__} "
            "promises nothing at any noise; choose another mechanism, or "
            "target_epsilon inf"
        )
    noise = accounting.calibrate_noise_multiplier(event, target_epsilon, delta, "best")
    return setup.with_noise(_float32(noise))


def _silent(setup: Any) -> Any:
    """Returns the setup with noise 0, after building it: some mechanisms refuse 0."""
    try:
        setup.with_noise(_PROBE)
    except ValueError:
        return setup
    silent = setup.with_noise(0.0)
    events_of(silent)
    return silent


def _float32(noise: float) -> float:
    """Returns the least float32 that is not below `noise`."""
    single = np.float32(noise)
    if single < noise:
        single = np.nextafter(single, np.float32(np.inf))
    return float(single)


Noises = dict[tuple[float, float], list[tuple[Any, base.PrivacyEvent]]]
"""Noises that were found, by target epsilon and delta, each with its whole run's
event."""


def calibrated_once(
    setup: Any, target_epsilon: float, delta: float, noises: Noises
) -> Any:
    """Calibrates as `calibrated` does, with one search for all runs of equal events.

    A noise that was found before is taken if it gives the run an event equal to the
    last number, such as at another learning rate or with another secure aggregation;
    nothing else decides. `noises` holds the findings of earlier calls, and grows.
    """
    path = noise_path(setup)
    found = noises.setdefault((target_epsilon, delta), [])
    for noise, event in found if path else ():
        noisy = paths.replaced(setup, path or "", noise)
        if whole_run(noisy) == event:
            return noisy
    noisy = calibrated(setup, target_epsilon, delta)
    if path:
        found.append((paths.value_at(noisy, path), whole_run(noisy)))
    return noisy


def noise_path(setup: Any) -> str | None:
    """Returns the key path of the field that `with_noise` sets, a number or structure.

    Returns None if the setup has no noise, or if more than one field changes with it.
    """
    if not hasattr(setup, "with_noise"):
        return None
    try:
        noisy = setup.with_noise(_PROBE)
    except ValueError:
        return None
    names = paths.every(setup)
    if names != paths.every(noisy):
        return None
    changed = [
        name
        for name in names
        if paths.value_at(setup, name) != paths.value_at(noisy, name)
    ]
    # A part differs where a field of it does.
    changed = [
        name
        for name in changed
        if not any(other.startswith(f"{name}.") for other in changed)
    ]
    return changed[0] if len(changed) == 1 else None


def whole_run(setup: Any) -> base.PrivacyEvent:
    """Returns the privacy event of all rounds."""
    return events_of(setup)(setup.schedule.num_rounds)


@functools.lru_cache(maxsize=8192)
def epsilon_after(setup: Any, delta: float | None, num_rounds: int) -> float | None:
    """Returns the epsilon, by RDP, of a run's first `num_rounds` rounds.

    Returns None where nothing is promised.
    """
    event = events_of(setup)(num_rounds)
    if delta is None or event.privacy_unit is None:
        return None
    epsilon = accounting.epsilon(event, delta)
    return epsilon if math.isfinite(epsilon) else None


def spent(setup: Any, key: str, delta: float | None, num_rounds: int) -> dict[str, Any]:
    """Returns plain values about a run's first `num_rounds` rounds: what they released,
    what they cost, and the key of their randomness.
    """
    event = events_of(setup)(num_rounds)
    return {
        "rounds": num_rounds,
        "key": key,
        "mechanisms": ledger.in_words(event),
        "privacy_unit": event.privacy_unit,
        "neighboring_relation": event.neighboring_relation,
        "delta": delta,
        "epsilon": epsilon_after(setup, delta, num_rounds),
    }


@arguments.checked
def statement(setup: Any, delta: float | None = None) -> dict[str, Any]:
    """Returns the guarantees of a whole run, as columns of a results table.

    Returns:
      `epsilon_rdp`, `epsilon_pld` (None where no PLD exists), `accountant` ("pld" where
      it exists, else "rdp": a target_epsilon is met by this one), `epsilon_public`
      (against who sees the released models) and `epsilon_server` (against who runs the
      protocol, see `accounting.epsilon_server`), `delta`, `noise_multiplier` (the
      number that `with_noise` sets), `privacy_unit`, `neighboring_relation` and
      `cut_share`, the share of delta that the cut of the noise takes
      (`accounting.cut_share`). Without privacy each epsilon is inf and the rest None.

    Raises:
      ValueError: If the run is private and no delta is given.
    """
    check_setup(setup)
    if delta is not None:
        checks.probability("delta", delta, allow_one=False)
    event = whole_run(setup)
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
        raise ValueError(
            f"{type(setup).__name__} is private and needs a delta to state epsilon; "
            "give points a delta"
        )
    stated = accounting.stated(event, delta)
    path = noise_path(setup)
    return {
        "epsilon_rdp": accounting.epsilon(event, delta, "rdp"),
        "epsilon_pld": stated.epsilon if stated.accountant == "pld" else None,
        "accountant": stated.accountant,
        "epsilon_public": stated.epsilon,
        "epsilon_server": accounting.epsilon_server(event, delta),
        "delta": delta,
        "noise_multiplier": path and paths.value_at(setup, path),
        "privacy_unit": event.privacy_unit,
        "neighboring_relation": event.neighboring_relation,
        "cut_share": accounting.cut_share(event, delta),
    }
