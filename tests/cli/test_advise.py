"""`advise` at the prompt: answers by flags, or asked at a terminal."""

from __future__ import annotations

import inspect
import io
import json
import typing

import pytest

from ppml_lab import __main__ as prompt
from ppml_lab.cli.advise import advise as command
from ppml_lab.lab import advice


def advised(*args: str) -> int:
    return prompt.main(["advise", *args])


def test_at_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    args = "--pooled no --participants 4 --kind silos --protect example --trust sum"
    assert advised(*args.split(), "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["answers"]["participants"] == 4
    assert found["leaves"][0]["name"] == "silo_example_dp"
    assert found["leaves"][0]["computed_with_more"].startswith("--rows")
    assert any("no legal advice" in note for note in found["notes"])
    assert advised(*args.split()) == 0
    shown = capsys.readouterr()
    assert shown.err == ""  # nothing is asked where there is no terminal
    assert shown.out.startswith("1. DP steps at example level across silos\n")
    assert "against whom: Epsilon holds for a person against whoever" in shown.out
    assert "Not these:" in shown.out
    assert max(map(len, shown.out.split("next:")[0].splitlines())) <= 88


def test_contradictions_at_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert advised("--pooled", "yes", "--trust", "nobody") == 2
    error = capsys.readouterr().err
    assert error.startswith("ppml_lab: error: pooled yes and trust nobody contradict")
    assert error.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_questions_are_asked_at_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.stdin", Terminal("nobdy\nno\n\nrows\nexample\n\nfour\n4\n")
    )
    assert advised("--trust", "sum", "--kind", "silos", "--json") == 0
    shown = capsys.readouterr()
    assert "'nobdy' is none of: yes, no" in shown.err
    assert "'four' is none of: a whole number" in shown.err
    assert "Who may see what" not in shown.err  # it was told by a flag
    found = json.loads(shown.out)["answers"]
    assert found == {
        **{"trust": "sum", "kind": "silos", "pooled": "no", "protect": "example"},
        "participants": 4,
        **({"split": "rows"} if "split" in found else {}),
    }


def test_flags_are_the_questions() -> None:
    hints = typing.get_type_hints(command)
    for question in advice.QUESTIONS:
        kinds = typing.get_args(hints[question.name])
        said = {a for kind in kinds for a in typing.get_args(kind)}
        assert said == {*question.answers}, question.name
    assert {*advice.Numbers._fields} <= {*inspect.signature(command).parameters}
