"""The questions on which the choice of a pattern hangs, and answers that do not meet.

Everything here is plain data, so that a page can show it (`as_json`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ppml_lab import checks


class Question(NamedTuple):
    """A question with its few answers."""

    name: str
    """Its name among answers, and its flag at the prompt."""
    text: str
    answers: dict[str, str]
    """What each answer means; {} for a question whose answer is a number."""


class Numbers(NamedTuple):
    """The user's own numbers, from which prices are computed; None where not told."""

    participants: int | None = None
    cohort: int | None = None
    """Participants of a round."""
    rows: int | None = None
    """Rows of all participants together."""
    dimension: int | None = None
    """Parameters of the model, or numbers of a statistic."""
    epsilon: float | None = None
    delta: float | None = None
    rounds: int | None = None

    def told(self) -> dict[str, Any]:
        """The numbers that are known, by name."""
        return {k: v for k, v in self._asdict().items() if v is not None}


class Answers(NamedTuple):
    """What is known of a situation; a question without an answer is open."""

    chosen: dict[str, str]
    numbers: Numbers = Numbers()


class Conflict(NamedTuple):
    """Two answers that cannot both be meant."""

    one: tuple[str, str]
    other: tuple[str, str]
    why: str


QUESTIONS = (
    Question(
        "pooled",
        "May everybody's rows be brought together in one place?",
        {
            "yes": "law and contracts allow it",
            "no": "rows stay where they are",
        },
    ),
    Question(
        "trust",
        "Who may see what while it is computed, and who may collude?",
        {
            "server": "one server may see rows or single updates, and keeps them "
            "secret",
            "sum": "a server may see sums alone, and is trusted to add noise to them",
            "parties": "several parties, who do not all collude, may hold shares",
            "nobody": "all others may collude: nothing leaves without its own noise",
        },
    ),
    Question(
        "split",
        "How do participants divide the data?",
        {
            "rows": "each has other people, with the same columns",
            "columns": "each has other columns of the same people",
        },
    ),
    Question(
        "protect",
        "Who must stay hidden in what is released?",
        {
            "none": "nobody's: it is enough that rows do not move",
            "example": "one row; where a pattern says person, that person's rows at a "
            "silo",
            "client": "all that one participant holds, such as a device's user",
            "organisation": "all that one organisation holds",
        },
    ),
    Question(
        "release",
        "What leaves, and how often?",
        {
            "model": "one model at the end",
            "updates": "a model again and again, as data come in",
            "predictions": "answers of a model to single queries",
            "statistics": "counts, means and other sums",
            "synthetic": "made-up rows that look like the real ones",
        },
    ),
    Question(
        "participants", "How many take part, and how many of them in a round?", {}
    ),
    Question(
        "kind",
        "What are the participants?",
        {
            "devices": "phones and the like, which drop out and keep no state",
            "silos": "organisations with servers that are always there",
        },
    ),
    Question(
        "bandwidth",
        "What can the weakest participant send?",
        {
            "low": "some megabytes in all, with long delays",
            "high": "gigabytes, with short delays",
        },
    ),
    Question(
        "data",
        "How do the participants' data differ?",
        {
            "alike": "hardly",
            "different": "much, and one model is wanted for all",
            "personal": "so much that each wants a model of its own",
        },
    ),
    Question(
        "malicious",
        "May some participants send what they should not?",
        {
            "no": "all follow the protocol",
            "yes": "some may lie or poison",
        },
    ),
    Question(
        "loss",
        "How much accuracy may it cost?",
        {
            "none": "none that can be seen",
            "little": "a few points",
            "much": "a great deal, if nothing else does",
        },
    ),
    Question(
        "auditor",
        "Who checks the promise?",
        {
            "nobody": "nobody but us",
            "internal": "colleagues with access to code and data",
            "external": "others, who see what is released",
        },
    ),
)
"""The questions, in the order in which they are asked."""

CONFLICTS = (
    *(
        Conflict(
            ("pooled", "yes"),
            ("trust", answer),
            "whoever pools rows sees them: allow pooling or hide rows, not both",
        )
        for answer in ("sum", "parties", "nobody")
    ),
    *(
        Conflict(
            ("split", "columns"),
            ("protect", answer),
            "where each holds columns of the same people, everybody's rows lie with "
            "every participant, and nothing is left of the others without one: "
            "protect examples",
        )
        for answer in ("client", "organisation")
    ),
    Conflict(
        ("split", "columns"),
        ("kind", "devices"),
        "a device holds all columns of its own user: rows are divided, not columns",
    ),
    Conflict(
        ("protect", "none"),
        ("trust", "nobody"),
        "noise of one's own is there to hide somebody: say whom to protect, or who "
        "may see what",
    ),
    Conflict(
        ("protect", "organisation"),
        ("kind", "devices"),
        "a device belongs to a user: protect clients, or say that the participants "
        "are silos",
    ),
)
"""Pairs of answers that are refused."""


def check(answers: Answers) -> Answers:
    """Returns the answers, if each is known and no two contradict each other.

    Raises:
      ValueError: For an unknown question or answer, a number out of range, or two
        answers that contradict each other; names both, and why.
    """
    by_name = {question.name: question for question in QUESTIONS}
    for name, answer in answers.chosen.items():
        known = by_name[name].answers if name in by_name else {}
        if not known:
            raise ValueError(f"there is no question {name!r} {_near(name, by_name)}")
        if answer not in known:
            raise ValueError(
                f"{name} must be one of {', '.join(known)}, got {answer!r} "
                f"{_near(answer, known)}".rstrip()
            )
    for one, other, why in CONFLICTS:
        if all(answers.chosen.get(name) == said for name, said in (one, other)):
            raise ValueError(
                f"{one[0]} {one[1]} and {other[0]} {other[1]} contradict each other: "
                f"{why}"
            )
    _check_numbers(answers)
    return answers


def _check_numbers(answers: Answers) -> None:
    told = answers.numbers.told()
    for name in ("participants", "cohort", "rows", "dimension", "rounds"):
        if name in told:
            checks.at_least(name, told[name], 1)
    if "epsilon" in told:
        checks.positive("epsilon", told["epsilon"])
    if "delta" in told:
        checks.probability("delta", told["delta"], allow_one=False)
    for less, more, why in (
        ("cohort", "participants", "a round cannot have more than there are"),
        ("participants", "rows", "some participants would have no row"),
    ):
        divided = answers.chosen.get("split") != "columns" or less == "cohort"
        if {less, more} <= {*told} and told[less] > told[more] and divided:
            raise ValueError(
                f"{less} {told[less]} and {more} {told[more]} contradict each other: "
                f"{why}"
            )
    if told.get("epsilon") is not None and answers.chosen.get("protect") == "none":
        raise ValueError(
            f"epsilon {told['epsilon']:g} and protect none contradict each other: "
            "epsilon is a promise to somebody; say whom to protect"
        )


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"(did you mean {near[0]!r}?)" if near else ""


def as_json() -> dict[str, Any]:
    """The questions and the pairs that contradict each other, for a page."""
    return {
        "questions": [question._asdict() for question in QUESTIONS],
        "conflicts": [conflict._asdict() for conflict in CONFLICTS],
    }
