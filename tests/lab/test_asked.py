"""The questions in the explorer's page: it advises as Python does."""

from __future__ import annotations

import html
import json
import random
import re
from pathlib import Path

import pytest

from ppml_lab.lab import advice, explorer
from ppml_lab.lab.advice import asked, questions
from ppml_lab.lab.explorer import page

from .test_explorer_browser import BROWSER, opened


def drawn(count: int, seed: int) -> list[advice.Answers]:
    """Random answers; about half of all questions stay open."""
    rng = random.Random(seed)
    found = [advice.Answers({})]
    while len(found) < count:
        chosen = {
            one.name: rng.choice([*one.answers])
            for one in questions.QUESTIONS
            if one.answers and rng.random() < 0.5
        }
        participants = rng.choice([None, None, 1, 2, 4, 30, 5000])
        found.append(advice.Answers(chosen, advice.Numbers(participants=participants)))
    return found


def by_python(answers: advice.Answers) -> list[str] | None:
    """The leaves that fit, or None for answers that contradict each other."""
    try:
        return [one.name for one in advice.advise(answers).fits]
    except ValueError:
        return None


def test_the_part_has_every_question_and_leaf() -> None:
    text = asked.html()
    for question in questions.QUESTIONS:
        assert f'name="{question.name}"' in text
    (about,) = re.findall(r'id="asked-about">(.*?)</script>', text, re.DOTALL)
    told = json.loads(about)
    assert len(told["leaves"]) == len(advice.leaves.find())
    assert "{{" not in about
    assert advice.NO_LEGAL_ADVICE in html.unescape(text)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
def test_the_page_advises_as_python_does(tmp_path: Path) -> None:
    cases = drawn(300, 1)
    tried = [[one.chosen, one.numbers.participants] for one in cases]
    script = f"""<pre id="found"></pre><script>
document.getElementById("found").textContent = JSON.stringify({json.dumps(tried)}.map(
  ([chosen, participants]) => conflictOf(chosen) ? null :
    fitsOf(chosen, participants).map(({{ leaf }}) => leaf.name)));
</script>"""
    text = page.html(explorer.committed(), extra=asked.html() + script)
    shown, left, _ = opened(tmp_path, text)
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)
    expected = [by_python(one) for one in cases]
    assert json.loads(html.unescape(found)) == expected
    assert sum(one is None for one in expected) > 20
    assert len({str(one) for one in expected}) > 50
    assert not left
    # Nothing is answered at first: every pattern is there.
    assert shown.count("<li><h3>") == len(expected[0] or [])
