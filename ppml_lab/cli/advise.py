"""`advise`: which pattern fits, what it cost as measured, and what yours would cost."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ppml_lab.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from ppml_lab.lab.advice import Advice

_WIDTH = 88
_IN_FULL = 3
"""Number of patterns about which all is told."""


def advise(
    *,
    pooled: Literal["yes", "no"] | None = None,
    trust: Literal["server", "sum", "parties", "nobody"] | None = None,
    split: Literal["rows", "columns"] | None = None,
    protect: Literal["none", "example", "client", "organisation"] | None = None,
    release: (
        Literal["model", "updates", "predictions", "statistics", "synthetic"] | None
    ) = None,
    participants: int | None = None,
    cohort: int | None = None,
    kind: Literal["devices", "silos"] | None = None,
    bandwidth: Literal["low", "high"] | None = None,
    data: Literal["alike", "different", "personal"] | None = None,
    malicious: Literal["no", "yes"] | None = None,
    loss: Literal["none", "little", "much"] | None = None,
    auditor: Literal["nobody", "internal", "external"] | None = None,
    rows: int | None = None,
    dimension: int | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    rounds: int | None = None,
    full: bool = False,
    as_json: AsJson = False,
) -> None:
    """Prints the patterns that fit a situation, best first, with measured prices.

    Questions without a flag are asked one by one at a terminal, where an empty answer
    leaves a question open; elsewhere they stay open. Prices that are measured name
    their table, seeds and commit; those computed for numbers of yours are marked so. It
    is no legal advice.

    Example: python -m ppml_lab advise --pooled no --participants 4 --kind silos
    --protect example --trust sum

    Args:
      pooled: May everybody's rows be brought together in one place?
      trust: Who may see what while it is computed: one "server" sees updates, a server
        sees a "sum" alone, "parties" hold shares, or "nobody" sees anything.
      split: Do participants have other people ("rows") or other "columns" of the same?
      protect: Who must stay hidden in what is released?
      release: What leaves; "updates" is a model again and again.
      participants: How many take part.
      cohort: How many take part in a round; by default all.
      kind: What the participants are; devices drop out and keep no state.
      bandwidth: What the weakest participant can send.
      data: How the participants' data differ; "personal" wants a model for each.
      malicious: May some participants send what they should not?
      loss: How much accuracy it may cost.
      auditor: Who checks the promise.
      rows: Rows of all participants together.
      dimension: Parameters of the model, or numbers of a statistic.
      epsilon: The promise that noise is computed for.
      delta: The delta of epsilon; by default a tenth of one over the population.
      rounds: Rounds, steps or releases.
      full: Tell all about every pattern that fits, and not of the first three alone.
      as_json: Print one JSON object.

    Raises:
      ValueError: If two answers contradict each other; names both, and why.
    """
    from ppml_lab.lab import advice

    given = dict(locals())
    chosen = {
        question.name: given[question.name]
        for question in advice.QUESTIONS
        if question.answers and given[question.name] is not None
    }
    numbers = advice.Numbers(**{name: given[name] for name in advice.Numbers._fields})
    if sys.stdin.isatty():
        chosen, numbers = _asked(chosen, numbers)
    found = advice.advise(advice.Answers(chosen, numbers))
    if as_json:
        print_json(_as_json(found))
    else:
        _print(found, full)


def _asked(chosen: dict[str, str], numbers: Any) -> tuple[dict[str, str], Any]:
    """Asks what is not answered yet, on standard error, one by one."""
    from ppml_lab.lab import advice

    for question in advice.QUESTIONS:
        if question.name in chosen or getattr(numbers, question.name, None) is not None:
            continue
        print(f"\n{question.text}", file=sys.stderr)
        for name, text in question.answers.items():
            print(f"  {name:<12} {text}", file=sys.stderr)
        while True:
            print("answer, or nothing to leave it open: ", end="", file=sys.stderr)
            sys.stderr.flush()
            said = sys.stdin.readline().strip()
            if not said:
                break
            if question.answers and said in question.answers:
                chosen = chosen | {question.name: said}
                break
            if not question.answers and said.isdecimal():
                numbers = numbers._replace(**{question.name: int(said)})
                break
            known = ", ".join(question.answers) or "a whole number"
            print(f"{said!r} is none of: {known}", file=sys.stderr)
    return chosen, numbers


def _as_json(found: Advice) -> dict[str, Any]:
    from ppml_lab.lab import advice
    from ppml_lab.lab.explorer.query import Evidence

    evidence = Evidence.committed()
    return {
        "answers": found.answers.chosen | found.answers.numbers.told(),
        "leaves": [advice.rendered(one, found.answers, evidence) for one in found.fits],
        "not_these": found.not_these,
        "relax": found.relax,
        "notes": [*found.notes, advice.NO_LEGAL_ADVICE],
    }


def _print(found: Advice, full: bool) -> None:
    told = _as_json(found)
    for number, leaf in enumerate(told["leaves"], 1):
        role = "" if leaf["role"] == "pattern" else f" ({leaf['role']})"
        print(f"{number}. {leaf['title']}{role}")
        _leaf(leaf, full or number <= _IN_FULL)
        print()
    if not full and len(told["leaves"]) > _IN_FULL:
        print("--full tells all about each of them.\n")
    if told["relax"]:
        print("No pattern here meets all of these answers. Without one of them:")
        for answer, titles in told["relax"].items():
            _shown(f"without {answer}", ", ".join(titles))
        print()
    if told["not_these"]:
        print("Not these:")
        for title, why in told["not_these"].items():
            _shown(title, why)
        print()
    for note in told["notes"]:
        print(textwrap.fill(note, _WIDTH))


def _leaf(leaf: Mapping[str, Any], full: bool) -> None:
    for text in leaf["reasons"]:
        _shown("for it", text)
    for text in leaf["cautions"]:
        _shown("against it", text)
    _shown("what it is", leaf["what"])
    _shown("against whom", leaf["against"])
    for text in leaf["measured"]:
        _shown("measured", text)
    if not full:
        return
    for one in leaf["computed"]:
        _shown("computed", f"{one['what']} {one['shown']} ({one['how']})")
    if leaf["computed_with_more"]:
        _shown("computed", f"more with {leaf['computed_with_more']}")
    _shown("takes", leaf["roles"])
    _shown("not protected", leaf["not_protected"])
    _shown("attack", leaf["attack"])
    _shown("in production", leaf["production"])
    for command in leaf["commands"]:
        needs_clone = " experiments." in command or "ppml_lab show" in command
        print(f"   next{' (in a clone)' if needs_clone else ''}: {command}")


def _shown(name: str, text: str) -> None:
    first, rest = f"   {name}: ", " " * 6
    print(textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=rest))
