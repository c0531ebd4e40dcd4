"""The decision guide `ppml_lab/GUIDE.md`, made of `guide.md` and the leaves.

A block of the template is a paragraph, an item of a list or a cell of a table. It is
filled by `template.statement`, so that a block whose table is absent says so, and ends
in the tables, seeds and commits that its numbers come from. `{{ leaves }}` and
`{{ tables }}` stand for the leaves and for the list of all tables.
"""

from __future__ import annotations

import re
from pathlib import Path

from ppml_lab import tables
from ppml_lab.lab.advice import leaves, questions, template
from ppml_lab.lab.advice.leaf import ROLES, Leaf, commands
from ppml_lab.lab.explorer.query import Evidence, Source

TEMPLATE = Path(__file__).with_name("guide.md")

_WIDTH = re.compile(r"\n(?=- |\* )")
_MARK = "<!-- made by `python -m ppml_lab pages` of guide.md, leaves and tables -->"


def render(evidence: Evidence, text: str | None = None) -> str:
    """Returns the guide's text.

    Args:
      evidence: The tables that its queries read.
      text: The template; the lab's own if None.

    Raises:
      ValueError: If a query fits no setting of a table that is there, or what a
        statement takes for granted no longer holds.
    """
    found = TEMPLATE.read_text() if text is None else text
    blocks = [_block(block, evidence) for block in found.strip().split("\n\n")]
    return "\n\n".join([blocks[0], _MARK, *blocks[1:]]) + "\n"


def _block(block: str, evidence: Evidence) -> str:
    if block.strip() == "{{ leaves }}":
        each = sorted(leaves.find().values(), key=lambda leaf: ROLES.index(leaf.role))
        return "\n\n".join(_leaf(leaf, evidence) for leaf in each)
    if block.strip() == "{{ questions }}":
        return _questions()
    if block.strip() == "{{ roles }}":
        rows = [
            f"| {leaf.title} | {leaf.roles} |"
            for leaf in leaves.find().values()
            if leaf.role != "not here"
        ]
        return "\n".join(["| pattern | what it takes |", "|---|---|", *rows])
    if block.strip() == "{{ tables }}":
        return _tables(evidence)
    if block.startswith("|"):
        return "\n".join(_row(line, evidence) for line in block.split("\n"))
    items = [_filled(item, evidence) for item in _WIDTH.split(block)]
    return "\n".join(items)


def _filled(text: str, evidence: Evidence) -> str:
    return template.statement(" ".join(text.split()), evidence, _link)


def _row(line: str, evidence: Evidence) -> str:
    cells = re.split(r"(?<!\{)\|(?![^{]*\}\})", line.strip().strip("|"))
    filled = [_filled(cell, evidence) for cell in cells]
    return "| " + " | ".join(filled) + " |"


def _link(experiment: str) -> str:
    return f"[{experiment}](../results/{experiment}/README.md)"


def _leaf(leaf: Leaf, evidence: Evidence) -> str:
    fits = [f"{name} {' or '.join(said)}" for name, said in leaf.needs.items()]
    if leaf.least > 1:
        fits.append(f"at least {leaf.least:,} participants")
    if leaf.most is not None:
        fits.append(f"at most {leaf.most:,} participants")
    role = {
        "pattern": "",
        "beside": " (beside another pattern)",
        "not here": " (not here)",
    }[leaf.role]
    told = {
        "What it is": leaf.what,
        "Fits": "; ".join(fits),
        "Against whom": leaf.against,
        "Not protected": leaf.not_protected,
        "Attack": leaf.attack,
        "In production": leaf.production,
    }
    lines = [f"### {leaf.title}{role}", ""]
    for name, text in told.items():
        lines.append(f"- *{name}:* {template.statement(text, evidence, _link)}")
    for text in leaf.measured:
        filled = template.statement(text, evidence, _link)
        lines.insert(-3, f"- *Measured:* {filled}")
    each = commands(leaf, questions.Answers({}))
    lines.append("- *Next:* " + ", ".join(f"`{command}`" for command in each))
    return "\n".join(lines)


def _questions() -> str:
    lines = ["| question | answers |", "|---|---|"]
    for question in questions.QUESTIONS:
        answers = [f"`{name}`: {text}" for name, text in question.answers.items()]
        flag = f"`--{question.name}` {question.text}"
        lines.append(f"| {flag} | {'; '.join(answers) or 'a number'} |")
    return "\n".join(lines)


def _tables(evidence: Evidence) -> str:
    """A row for each table of the view: how much there is, and from where to where."""
    lines = ["| table | settings | metric | lowest | highest | seeds | commits |"]
    lines += ["|---|--:|---|--:|--:|---|---|"]
    found: dict[tuple[str, str], list[Source]] = {}
    for one in evidence.sources:
        if not one.is_price:
            found.setdefault((one.experiment, one.configuration), []).append(one)
    for (experiment, configuration), each in found.items():
        metric = next((str(s.cells["metric"]) for s in each if s.cells["metric"]), None)
        name = "mean" if metric else "lower_bound"
        values = [float(s.cells[name]) for s in each if tables.is_finite(s.cells[name])]
        seeds = sorted({s.seeds for s in each if s.seeds is not None})
        commits = dict.fromkeys(str(s.commit)[:7] for s in each)
        cells = (
            f"{_link(experiment)} {configuration}",
            str(len(each)),
            metric or "lower bound on epsilon",
            template.number(min(values)) if values else "-",
            template.number(max(values)) if values else "-",
            ", ".join(map(str, seeds)) or "-",
            ", ".join(commits),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
