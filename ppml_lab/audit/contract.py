"""The mechanism contract: probes and an audit that every private mechanism must pass.

The audit runs a few rounds of the mechanism itself, tens of thousands of times, on
adversarial worlds; a classical audit of whole trainings finds few of the bugs that the
contract finds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppml_lab import arguments, checks
from ppml_lab.audit import (
    crowds,
    distinguishers,
    evidence,
    probes,
    remembered,
    repetitions,
    tails,
    tradeoff,
    worlds,
)
from ppml_lab.audit.probes import Finding
from ppml_lab.audit.subjects import Subject

ALPHA = 1e-3
"""The probability that the audit refutes a claim that holds."""

DETECTORS = (
    *("replay", "noise", "participation", "tails", "rounds", "state", "frozen"),
    *("crowd", "audit"),
)


class Report(NamedTuple):
    """The findings of the contract's detectors.

    Attributes:
      findings: One of each detector that ran, in order.
    """

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """True where no detector refuted the mechanism."""
        return not self.refuted_by

    @property
    def refuted_by(self) -> tuple[str, ...]:
        """The names of the detectors that refuted the mechanism."""
        return tuple(f.detector for f in self.findings if f.refuted)


class Candidate(NamedTuple):
    """A way to tell two worlds apart, with its success on the half that chose it.

    Attributes:
      margin: The margin on the half that chose it, see `tradeoff.Verdict`.
      world: The world's name.
      distinguisher: The distinguisher's name.
      threshold: Scores at or above it mean "in".
      scores_in: Scores with the canary, of the other half.
      scores_out: Scores without the canary, of the other half.
    """

    margin: float
    world: str
    distinguisher: str
    threshold: float
    scores_in: np.ndarray
    scores_out: np.ndarray


@arguments.checked
def check_mechanism(
    subject: Subject,
    *,
    num_runs: int = 20_000,
    seed: int = 0,
    detectors: tuple[str, ...] = DETECTORS,
) -> Report:
    """Checks whether a mechanism is what it states.

    *replay* measures the true sensitivity under adversarial neighbours; *noise* the
    noise's scale, distribution and independence; *participation* the sampling; *tails*
    the noise in millions of draws; *rounds* randomness that comes again in another
    round, up to 2^30 later; *state* memory of anything but releases; *frozen* leaves
    that must not move; *crowd* the sum of 100,000 contributions. *audit* tests the
    stated privacy itself: over all worlds, distinguishers are fitted on one half of the
    runs, and the errors of the best distinguisher on the other half are tested against
    the whole trade-off curve that the accountant claims. `check_independence` checks
    other runs of the same seed, `check_clipping` the gradients of whole layers.

    **Guarantee:** the audit refutes a mechanism whose claim holds with probability 1e-3
    at most, and each probe refutes a mechanism that is as stated with probability 1e-5
    at most. Passing is no proof of privacy: bugs that these worlds and statistics do
    not show are not found. Probes compare with what is stated, so that they also find a
    mechanism that is private but not as stated, such as one with twice the noise.

    Args:
      subject: From `audit.subjects`.
      num_runs: Runs of either side in each world of the audit.
      seed: The seed of all runs; the same seed gives the same report.
      detectors: The detectors that run.

    Raises:
      ValueError: For a subject with noise multiplier or clip norm 1, at which several
        bugs are invisible, unknown detectors, or too few runs.
    """
    _check(subject, num_runs, seed, detectors)
    run = probes.runner(subject, seed)
    known = {
        "replay": lambda: probes.replay(subject, run),
        "noise": lambda: probes.noise(subject, run),
        "participation": lambda: probes.participation(subject, run),
        "tails": lambda: tails.tails(subject, seed),
        "rounds": lambda: repetitions.rounds(subject, run),
        "state": lambda: remembered.state(subject, run),
        "frozen": lambda: remembered.frozen(subject, run),
        "crowd": lambda: crowds.crowd(subject, seed),
        "audit": lambda: audit(subject, run, num_runs),
    }
    return Report(tuple(known[name]() for name in DETECTORS if name in detectors))


def audit(subject: Subject, run: probes.Runner, num_runs: int) -> Finding:
    """The mechanism audit; see `check_mechanism`."""
    claim = tradeoff.claimed(subject.event)
    pairs = worlds.adversarial(subject.clip_norm, subject.event.neighboring_relation)
    candidates: list[Candidate] = []
    for place, (name, world) in enumerate(pairs.items()):
        rows = np.stack([world.rows_in, world.rows_out])
        present = np.stack([world.present_in, world.present_out])
        # No key is used twice: a shared key would show the difference without noise.
        first = (1 + place) * 2 * num_runs
        numbers = first + np.arange(2 * num_runs)
        release = run(numbers, rows, present, np.repeat([0, 1], num_runs))
        candidates += _candidates(subject, claim, name, release, num_runs)
    best = max(candidates, key=lambda candidate: candidate.margin)
    errors = evidence.Errors(
        int((best.scores_in < best.threshold).sum()),
        len(best.scores_in),
        int((best.scores_out >= best.threshold).sum()),
        len(best.scores_out),
        "halves",
    )
    verdict = tradeoff.judge(errors, claim, ALPHA)
    fnr, fpr = verdict.rates
    return Finding(
        "audit",
        verdict.refuted,
        f"{best.distinguisher} in world '{best.world}': FNR <= {fnr:.3f}, FPR <= "
        f"{fpr:.3f}, {verdict.margin:+.3f} below the claim",
    )


def _candidates(
    subject: Subject,
    claim: tradeoff.TradeOff,
    world: str,
    release: probes.Seen,
    num_runs: int,
) -> list[Candidate]:
    """The candidates of every distinguisher in one world.

    A distinguisher is fitted on a quarter of the runs and its threshold chosen on the
    next quarter, so that overfitting does not count.
    """
    quarter, half = num_runs // 4, num_runs // 2
    features = np.concatenate([release.values, release.extras], axis=2)
    # A release that is not finite is an answer of its own.
    broken = ~np.isfinite(features.reshape(len(features), -1).sum(axis=1))
    features = np.nan_to_num(features.astype(np.float64), nan=0, posinf=0, neginf=0)
    features = probes.fresh(features, subject.mixing)
    inside, outside = features[:num_runs], features[num_runs:]
    found = []
    for name, score in _scores(subject, inside[:quarter], outside[:quarter]).items():
        scores = [
            score(group) + 1e9 * lost
            for group, lost in (
                (inside, broken[:num_runs]),
                (outside, broken[num_runs:]),
            )
        ]
        chosen_on = [group[quarter:half] for group in scores]
        threshold, margin = _best(chosen_on[0], chosen_on[1], claim)
        found.append(
            Candidate(
                margin, world, name, threshold, scores[0][half:], scores[1][half:]
            )
        )
    return found


def _scores(
    subject: Subject, inside: np.ndarray, outside: np.ndarray
) -> dict[str, distinguishers.Score]:
    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1)

    def differences(x: np.ndarray) -> np.ndarray:
        return flat(np.diff(x[:, :, :3], axis=1))

    fitted = {
        "discriminant": (distinguishers.discriminant, flat),
        "histograms": (distinguishers.histograms, flat),
        "support": (distinguishers.support, lambda x: x[:, 0]),
    }
    if inside.shape[1] > 1:
        # Noise that comes again in another round cancels.
        fitted["histograms of differences"] = (distinguishers.histograms, differences)
    scores: dict[str, distinguishers.Score] = {}
    for name, (fit, view) in fitted.items():
        score = fit(view(inside), view(outside))
        scores[name] = lambda x, score=score, view=view: score(view(x))
    if subject.noise is not None:
        # For a canary in every round: the move that each round adds to earlier moves.
        moved = probes.fresh(np.ones((1, len(subject.noise))), subject.mixing)[0]
        stddev, prob = np.asarray(subject.noise) / moved, subject.sampling_prob or 1.0
        for name, sign, by_round in (
            ("likelihood ratio", 1.0, False),
            ("likelihood ratio, other sign", -1.0, False),
            ("likelihood ratio, one round", 1.0, True),
        ):
            score = distinguishers.sampled_gaussian(
                0, sign, stddev, prob, by_round=by_round
            )
            scores[name] = lambda x, score=score: score(x / moved[:, None])
    return scores


def _best(
    inside: np.ndarray, outside: np.ndarray, claim: tradeoff.TradeOff
) -> tuple[float, float]:
    """The threshold at which the claim looks worst, and the margin there."""
    places = [*np.linspace(0, 1, 80), 0.0005, 0.001, 0.999, 0.9995]
    grid = np.unique(np.quantile(np.concatenate([inside, outside]), places))
    grid = np.concatenate([grid, (grid[:-1] + grid[1:]) / 2])
    missed = np.searchsorted(np.sort(inside), grid)
    alarms = len(outside) - np.searchsorted(np.sort(outside), grid)
    fnr = evidence.upper_limit(missed, len(inside), ALPHA / 2)
    fpr = evidence.upper_limit(alarms, len(outside), ALPHA / 2)
    margins = claim.least_fnr(fpr) - fnr
    best = int(np.argmax(margins))
    return float(grid[best]), float(margins[best])


def _check(
    subject: Subject, num_runs: int, seed: int, detectors: tuple[str, ...]
) -> None:
    checks.at_least("num_runs", num_runs, 1)
    checks.at_least("seed", seed, 0)
    unknown = sorted(set(detectors) - set(DETECTORS))
    if unknown or not detectors:
        raise ValueError(
            f"detectors must be some of {', '.join(DETECTORS)}, got "
            f"{', '.join(unknown) or 'none'}"
        )
    if subject.clip_norm == 1 or (subject.noise and 1.0 in subject.noise):
        raise ValueError(
            f"clip_norm {subject.clip_norm:g} and noise {subject.noise} must not be 1, "
            "which hides several bugs; audit with other values, such as clip_norm 0.5 "
            "and noise multiplier 0.8"
        )
    if "audit" in detectors:
        evidence.check_enough(num_runs // 2, ALPHA, factor=2)
