"""Advice on patterns and their prices, for `ppml-lab advise` and the guide.

It is no legal advice. `advise` takes the answers to `questions.QUESTIONS` and gives the
leaves that fit, best first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ppml_lab.lab.advice import computed, leaves, questions, template
from ppml_lab.lab.advice.leaf import ROLES, Fit, Leaf, commands, fit, objection
from ppml_lab.lab.advice.questions import QUESTIONS, Answers, Numbers
from ppml_lab.lab.explorer.query import Evidence

__all__ = ["QUESTIONS", "Advice", "Answers", "Fit", "Leaf", "Numbers", "advise"]

NO_LEGAL_ADVICE = (
    "This is no legal advice: whether data may be used at all, and what counts as "
    "anonymous, is for your data protection officer to say."
)

NOTES = (
    (
        {"malicious": "yes", "trust": "sum"},
        "Robust rules need every update, and the server may see sums alone: a liar is "
        "bounded by clipping, and not found.",
    ),
    (
        {"auditor": "external"},
        "For who audits from outside: publish the unit, the neighbouring relation, "
        "epsilon with delta, the sampler, the clip norm and the accountant, and let "
        "them train with and without a canary of theirs (`audit.training`).",
    ),
    (
        {"auditor": "internal"},
        "For colleagues who audit: `audit.check_mechanism` for the mechanism, and a "
        "canary in a training for the whole; that nothing is found proves nothing.",
    ),
    (
        {"release": "updates"},
        "Every further model is a further release: one budget has to cover all of "
        "them.",
    ),
    (
        {"release": "predictions"},
        "Answers of a model are a release of it: what the model promises to nobody, "
        "its answers do not either.",
    ),
)
"""What to say besides, by answers that are all given."""


class Advice(NamedTuple):
    """The leaves that fit, best first, and what else to say."""

    answers: Answers
    fits: list[Fit]
    not_these: dict[str, str]
    """Leaves that do not fit, and why."""
    relax: dict[str, list[str]]
    """Where no pattern fits: "name answer", and the patterns that fit without it."""
    notes: list[str]


def advise(answers: Answers) -> Advice:
    """Returns the leaves that fit, best first.

    Raises:
      ValueError: For answers that are unknown or contradict each other.
    """
    questions.check(answers)
    fits = _fits(answers)
    relax: dict[str, list[str]] = {}
    if not any(one.leaf.role == "pattern" for one in fits):
        for name, answer in answers.chosen.items():
            left = {n: a for n, a in answers.chosen.items() if n != name}
            opened = _fits(answers._replace(chosen=left))
            titles = [f.leaf.title for f in opened if f.leaf.role == "pattern"]
            if titles:
                relax[f"{name} {answer}"] = titles
    notes = [
        note
        for wanted, note in NOTES
        if all(answers.chosen.get(name) == answer for name, answer in wanted.items())
    ]
    not_these = {
        leaf.title: why
        for leaf in leaves.find().values()
        if leaf.role != "not here" and (why := objection(leaf, answers)) is not None
    }
    return Advice(answers, fits, not_these, relax, notes)


def _fits(answers: Answers) -> list[Fit]:
    found = [fit(name, leaf, answers) for name, leaf in leaves.find().items()]
    return sorted(
        filter(None, found),
        key=lambda one: (
            ROLES.index(one.leaf.role),
            one.leaf.is_floor,
            -one.score,
            -len(one.leaf.needs),
            one.name,
        ),
    )


def rendered(one: Fit, answers: Answers, evidence: Evidence) -> dict[str, Any]:
    """A leaf with its numbers: measured ones with sources, computed ones marked so."""
    leaf = one.leaf
    values, missing = computed.all_of(leaf.computed, answers.numbers)
    return {
        "name": one.name,
        "title": leaf.title,
        "role": leaf.role,
        "reasons": one.reasons,
        "cautions": one.cautions,
        "what": leaf.what,
        "against": leaf.against,
        "measured": [template.statement(text, evidence) for text in leaf.measured],
        "computed": [value._asdict() for value in values],
        "computed_with_more": missing,
        "not_protected": leaf.not_protected,
        "attack": template.statement(leaf.attack, evidence),
        "production": template.statement(leaf.production, evidence),
        "roles": leaf.roles,
        "commands": commands(leaf, answers),
    }
