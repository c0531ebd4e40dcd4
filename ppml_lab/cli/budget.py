"""`epsilon` and `calibrate`: epsilon of noise, and noise for epsilon, before
training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppml_lab.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from ppml_lab.base import PrivacyEvent


def epsilon(
    *,
    sampling_prob: float,
    noise_multiplier: float,
    num_steps: int,
    delta: float,
    as_json: AsJson = False,
) -> None:
    """Prints epsilon by PLD (what a budget means) and by RDP.

    Example: python -m ppml_lab epsilon --sampling-prob 0.01 --noise-multiplier 1.1
    --num-steps 1000 --delta 1e-5

    Args:
      sampling_prob: Probability of joining a step's cohort or batch, in (0, 1].
      noise_multiplier: Noise stddev over L2 sensitivity; 0 gives no privacy.
      num_steps: Rounds (client-level privacy) or steps (example-level privacy).
      delta: The delta of epsilon, in (0, 1), well below 1 / population.
      as_json: Print one JSON object (an infinite epsilon is the string "inf").
    """
    from ppml_lab.dp import accounting

    event = _event(sampling_prob, noise_multiplier, num_steps)
    _report(
        f"epsilon at delta {delta:g}, {num_steps} steps with sampling_prob"
        f" {sampling_prob:g} and noise_multiplier {noise_multiplier:g}",
        {
            "sampling_prob": sampling_prob,
            "noise_multiplier": noise_multiplier,
            "num_steps": num_steps,
            "delta": delta,
        },
        {name: accounting.epsilon(event, delta, name) for name in ("rdp", "pld")},
        accounting.cut_note(event, delta),
        as_json,
    )


def calibrate(
    *,
    target_epsilon: float,
    sampling_prob: float,
    num_steps: int,
    delta: float,
    as_json: AsJson = False,
) -> None:
    """Prints the smallest noise multiplier for a target epsilon, by PLD (what a budget
    means) and by RDP.

    Example: python -m ppml_lab calibrate --target-epsilon 2 --sampling-prob 0.01
    --num-steps 1000 --delta 1e-5

    Args:
      target_epsilon: The epsilon to meet, above 0.
      sampling_prob: Probability of joining a step's cohort or batch, in (0, 1].
      num_steps: Rounds (client-level privacy) or steps (example-level privacy).
      delta: The delta of epsilon, in (0, 1), well below 1 / population.
      as_json: Print one JSON object.
    """
    from ppml_lab.dp import accounting

    def make_event(noise_multiplier: float) -> PrivacyEvent:
        return _event(sampling_prob, noise_multiplier, num_steps)

    answers = {
        name: accounting.calibrate_noise_multiplier(
            make_event, target_epsilon, delta, name
        )
        for name in ("rdp", "pld")
    }
    _report(
        f"noise_multiplier for epsilon {target_epsilon:g} at delta {delta:g}, "
        f"{num_steps} steps with sampling_prob {sampling_prob:g}",
        {
            "target_epsilon": target_epsilon,
            "sampling_prob": sampling_prob,
            "num_steps": num_steps,
            "delta": delta,
        },
        answers,
        accounting.cut_note(make_event(answers["pld"]), delta),
        as_json,
    )


def _event(
    sampling_prob: float, noise_multiplier: float, num_steps: int
) -> PrivacyEvent:
    from ppml_lab import base, checks
    from ppml_lab.dp import events

    checks.at_least("num_steps", num_steps, 1)
    release = events.gaussian(noise_multiplier)
    step = events.poisson(sampling_prob, release)
    run = events.compose(step, num_steps)
    return base.PrivacyEvent(run, "add_or_remove_one", "example")


def _report(
    question: str,
    inputs: dict[str, float],
    answers: dict[str, float],
    cut: str,
    as_json: bool,
) -> None:
    if as_json:
        print_json({**inputs, **answers, "cut": cut})
        return
    print(question)
    print(
        "Poisson sampling, add-or-remove-one neighbours; against whoever sees the"
        " releases, not who runs the protocol"
    )
    print(f"  pld  {answers['pld']:.6g}   report this number")
    print(f"  rdp  {answers['rdp']:.6g}   live and resumed runs use this number")
    if cut:
        print(cut)
