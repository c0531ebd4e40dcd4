"""The questions and leaves as a part of the explorer's page.

The page decides by the same data as `advise` (`asked.js` has `objection` and `fit`
again, and a test holds the two to each other). It shows stock numbers in commands, and
computes nothing: `ppml-lab advise` does that for the user's own numbers.
"""

from __future__ import annotations

import html as text_of
import json
from pathlib import Path
from typing import Any

from ppml_lab.lab.advice import NO_LEGAL_ADVICE, NOTES, leaves, questions, rendered
from ppml_lab.lab.advice.leaf import ROLES, Fit, Leaf
from ppml_lab.lab.advice.questions import QUESTIONS, Answers, Question
from ppml_lab.lab.explorer.query import Evidence

_SCRIPT = Path(__file__).with_name("asked.js")


def html(evidence: Evidence | None = None) -> str:
    """Returns the part of the page: questions, the leaves that fit, and its script.

    Args:
      evidence: The tables whose numbers leaves show; the committed ones if None.
    """
    fields = "\n".join(map(_field, QUESTIONS))
    about = json.dumps(data(evidence)).replace("<", "\\u003c")
    return f"""<section aria-labelledby="h-asked" class="live" hidden>
<h2 id="h-asked">Which pattern fits?</h2>
<p class="soft">Answer what you know: an open question rules nothing out. Prices are
those that the lab measured, with their table, seeds and commit; <code>ppml-lab
advise</code> takes the same answers and computes prices for numbers of yours.
{text_of.escape(NO_LEGAL_ADVICE)}</p>
<details><summary>Questions</summary>
<form id="asked" aria-label="Questions" autocomplete="off">
{fields}
</form>
<p id="asked-said" role="status" aria-live="polite"></p>
<ol id="asked-leaves"></ol>
</details>
</section>
<script type="application/json" id="asked-about">{about}</script>
<script>
{_SCRIPT.read_text(encoding="utf-8")}</script>
"""


def data(evidence: Evidence | None = None) -> dict[str, Any]:
    """Returns what the script has to know: questions, conflicts, and leaves."""
    evidence = Evidence.committed() if evidence is None else evidence
    found = leaves.find()
    return questions.as_json() | {
        "roles": ROLES,
        "leaves": [_leaf(name, leaf, evidence) for name, leaf in found.items()],
        "notes": [{"answers": wanted, "note": note} for wanted, note in NOTES],
    }


def _leaf(name: str, leaf: Leaf, evidence: Evidence) -> dict[str, Any]:
    nobody = Answers({})
    shown = rendered(Fit(name, leaf, 0, [], []), nobody, evidence)
    decides = {
        "needs": leaf.needs,
        "reasons": leaf.reasons,
        "ruled_out": [one._asdict() for one in leaf.ruled_out],
        "cautions": [one._asdict() for one in leaf.cautions],
        "least": leaf.least,
        "most": leaf.most,
        "is_floor": leaf.is_floor,
    }
    left_out = ("reasons", "cautions", "computed", "computed_with_more")
    return {k: v for k, v in shown.items() if k not in left_out} | decides


def _field(question: Question) -> str:
    name = question.name
    if not question.answers:
        field = f'<input name="{name}" type="number" min="1" placeholder="open">'
    else:
        options = "".join(
            f'<option value="{answer}">{text_of.escape(f"{answer}: {means}")}</option>'
            for answer, means in question.answers.items()
        )
        field = (
            f'<select name="{name}"><option value="">open</option>{options}</select>'
        )
    return f"<div><label>{text_of.escape(question.text)}{field}</label></div>"
