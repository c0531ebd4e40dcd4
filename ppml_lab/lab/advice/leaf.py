"""A leaf: one pattern, when it fits, what it costs and what it does not protect from.

Texts are templates (`advice.template`): a digit in them stands inside a query. What
decides whether a leaf fits is data, so that a page can decide the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ppml_lab.lab.advice.questions import Answers

Role = Literal["pattern", "beside", "not here"]
"""A "pattern" stands alone, what is "beside" goes with one, and what is "not here" is
outside of what the lab has."""

ROLES = ("pattern", "beside", "not here")
"""The roles, in the order in which leaves are told."""

DEFAULTS = {
    "participants": 1000,
    "cohort": 100,
    "rows": 10_000,
    "dimension": 10_000,
    "epsilon": 2.0,
    "rounds": 100,
}
"""Numbers of commands where the user has told none."""


class Caution(NamedTuple):
    """Answers at which a leaf fits less well, or not at all, and why."""

    answers: dict[str, tuple[str, ...]]
    """It holds where each of these questions has one of these answers."""
    why: str


class Leaf(NamedTuple):
    """A pattern, as advice gives it."""

    title: str
    role: Role
    what: str
    """What it is, in two or three sentences."""
    against: str
    """Against whom the guarantee holds, and against whom it does not."""
    units: tuple[str, ...]
    """The answers of `protect` for which its release promises something."""
    shows: Literal["rows", "updates", "sum", "shares", "noised", "nothing"]
    """What others see that is not released: the rows, single updates, their sums,
    shares alone, or only what carries its owner's noise."""
    needs: dict[str, tuple[str, ...]]
    """By question the answers at which it fits; an open question rules nothing out."""
    reasons: dict[str, str]
    """By question why an answer to it speaks for this leaf. What is no "pattern" needs
    an answer to each of these questions."""
    measured: tuple[str, ...]
    """Its price as measured: statements whose numbers are queries."""
    computed: tuple[str, ...]
    """Names in `advice.computed.KINDS` of what is computed for the user's numbers."""
    not_protected: str
    attack: str
    """The attack that shows it, and what it reached, or that none is measured."""
    production: str
    """What runs this pattern, and which numbers to carry over."""
    commands: tuple[str, ...]
    """The next commands, with the user's numbers in braces."""
    roles: str
    """Parties, keys, rounds and trusted roles of a deployment, in words."""
    ruled_out: tuple[Caution, ...] = ()
    """Answers that together rule it out."""
    cautions: tuple[Caution, ...] = ()
    """Answers at which it is a poorer choice."""
    least: int = 1
    """The fewest participants with which it makes sense."""
    most: int | None = None
    """The most participants; None for any number."""
    is_floor: bool = False
    """Whether it is what any other pattern has to beat, and is told after them."""


class Fit(NamedTuple):
    """How a leaf fits a situation."""

    name: str
    leaf: Leaf
    score: int
    reasons: list[str]
    cautions: list[str]


def objection(leaf: Leaf, answers: Answers) -> str | None:
    """Returns why a leaf does not fit; None if it does."""
    chosen = answers.chosen
    for name, accepted in leaf.needs.items():
        if name in chosen and chosen[name] not in accepted:
            return f"it needs {name} {' or '.join(accepted)}, not {chosen[name]}"
    for one in leaf.ruled_out:
        if _holds(one.answers, chosen):
            return one.why
    open_still = [n for n in leaf.reasons if n not in _told(answers)]
    if leaf.role != "pattern" and open_still:
        return f"it hangs on {' and '.join(open_still)}"
    count = answers.numbers.participants
    if count is not None and count < leaf.least:
        return f"it needs at least {leaf.least:,} participants, not {count:,}"
    if count is not None and leaf.most is not None and count > leaf.most:
        return f"it is for at most {leaf.most:,} participants, not {count:,}"
    return None


def fit(name: str, leaf: Leaf, answers: Answers) -> Fit | None:
    """Returns how a leaf fits; None if an answer rules it out."""
    if objection(leaf, answers) is not None:
        return None
    chosen = answers.chosen
    told = _told(answers)
    reasons = [why for about, why in leaf.reasons.items() if about in told]
    cautions = [c.why for c in leaf.cautions if _holds(c.answers, chosen)]
    return Fit(name, leaf, len(reasons) - 2 * len(cautions), reasons, cautions)


def commands(leaf: Leaf, answers: Answers) -> list[str]:
    """The next commands with the user's numbers, or `DEFAULTS` in their place."""
    told = answers.numbers.told()
    numbers: dict[str, Any] = DEFAULTS | told
    numbers["cohort"] = told.get("cohort", min(100, numbers["participants"]))
    numbers["prob"] = f"{min(1.0, numbers['cohort'] / numbers['participants']):g}"
    numbers["batch_prob"] = f"{min(1.0, 256 / numbers['rows']):g}"
    own = max(1, numbers["rows"] // numbers["participants"])
    numbers["own_prob"] = f"{min(1.0, 256 / own):g}"
    numbers["own_delta"] = told.get("delta", delta_of(own))
    numbers.setdefault("delta", delta_of(numbers["participants"]))
    numbers["row_delta"] = told.get("delta", delta_of(numbers["rows"]))
    for name in ("delta", "row_delta", "own_delta", "epsilon"):
        numbers[name] = f"{numbers[name]:g}"
    return [command.format(**numbers) for command in leaf.commands]


def _told(answers: Answers) -> set[str]:
    return {*answers.chosen, *answers.numbers.told()}


def delta_of(population: int) -> float:
    """A tenth of one over the population, a usual choice below one over it."""
    return float(f"{0.1 / max(population, 2):.1g}")


def _holds(wanted: Mapping[str, tuple[str, ...]], chosen: Mapping[str, str]) -> bool:
    return all(chosen.get(name) in accepted for name, accepted in wanted.items())
