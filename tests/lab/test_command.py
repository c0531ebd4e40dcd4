"""A configuration's command line: key paths are flags, parts are chosen by name."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest

from ppml_lab import lab
from ppml_lab.lab import parts
from ppml_lab.lab.command import parse
from ppml_lab.lab.parts.choices import CHOICES


@lab.part
class Mine:
    """A mechanism of one's own."""

    strength: lab.Traced = 0.3
    """How strong it is."""

    def build(self, privacy_unit: str, expected: Any) -> Any:
        """None."""
        return parts.NoPrivacy().build(privacy_unit, expected)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration, with annotations that are texts."""

    base: parts.Federated
    num_seeds: int = 3
    """Repetitions."""
    targets: tuple[float, ...] = (1.0, 2.0)


PLAIN = parts.Federated(partition=parts.Iid(20))
CONFIGS = {
    "smoke": PLAIN,
    "paper": dataclasses.replace(PLAIN, mechanism=Mine(0.7)),
}


def parsed(monkeypatch: pytest.MonkeyPatch, *args: str, configs: Any = CONFIGS) -> Any:
    monkeypatch.setattr(sys, "argv", ["x", *args])
    return parse("x", "What for?", configs, (), CHOICES).config


def test_flags_are_key_paths_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, "smoke") == CONFIGS["smoke"]
    flags = ("--mechanism.strength", "2", "--schedule.num-rounds", "7")
    assert parsed(monkeypatch, "paper", *flags) == dataclasses.replace(
        PLAIN, mechanism=Mine(2), schedule=lab.Schedule(num_rounds=7)
    )
    chosen = ("mechanism:gaussian", "server:adam", "--server.b1", "0.5")
    chosen += ("--mechanism.clip-norm", "0.3")
    assert parsed(monkeypatch, "smoke", *chosen) == dataclasses.replace(
        PLAIN, mechanism=parts.Gaussian(0.3), server=parts.Adam(b1=0.5)
    )


def test_what_a_part_cannot_do_without_is_a_flag_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edges = ("model:logistic-hazard", "--model.edges", "1", "2.5")
    assert parsed(monkeypatch, "smoke", *edges) == dataclasses.replace(
        PLAIN, model=parts.LogisticHazard((1.0, 2.5))
    )


def test_a_part_of_any_configuration_is_a_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = parsed(monkeypatch, "smoke", "mechanism:mine", "--mechanism.strength", "2")
    assert mine == dataclasses.replace(PLAIN, mechanism=Mine(2))


def test_a_plain_dataclass_may_hold_setups(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = {"smoke": Experiment(PLAIN)}
    flags = ("--num-seeds", "5", "--targets", "3", "--base.partition.num-clients", "9")
    found = parsed(monkeypatch, "smoke", *flags, configs=configs)
    assert found == Experiment(
        dataclasses.replace(PLAIN, partition=parts.Iid(9)), 5, (3.0,)
    )


def test_two_parts_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    called: Any = type("Gaussian", (), {"build": Mine.build, "__module__": __name__})
    configs = {"smoke": dataclasses.replace(PLAIN, mechanism=lab.part(called)())}
    with pytest.raises(ValueError, match="called Gaussian; rename your own"):
        parsed(monkeypatch, "smoke", configs=configs)


@pytest.mark.parametrize(
    "args",
    [
        (), ("smok",), ("smoke", "--schedule.num-rounds", "x"),
        ("smoke", "--mechanism.clip-norm", "1"), ("smoke", "mechanism:gausian"),
    ],
)  # fmt: skip
def test_what_does_not_parse_ends_with_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, args: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed(monkeypatch, *args)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_help_shows_the_chosen_parts_alone_with_their_docstrings(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for config, shown, hidden in (
        ("smoke", (), ("strength", "clip-norm")),
        ("paper", ("strength", "How strong it is"), ("clip-norm",)),
    ):
        with pytest.raises(SystemExit):
            parsed(monkeypatch, config, "--help")
        out = capsys.readouterr().out
        known = ("mechanism:gaussian", "mechanism:mine", "partition:dirichlet")
        assert all(word in out for word in (*known, *shown))
        assert not any(f"--mechanism.{word}" in out for word in hidden)
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--help")
    assert "{smoke,paper}" in capsys.readouterr().out


def test_a_stem_and_configurations_are_needed() -> None:
    with pytest.raises(ValueError, match="stem must name the experiment"):
        parse("", "", CONFIGS)
    with pytest.raises(ValueError, match="configs has no configuration"):
        parse("x", "", {})


def test_every_stock_part_is_a_choice() -> None:
    """Those that hold a function are reached in Python alone."""
    offered = {cls for classes in CHOICES.values() for cls in classes}
    every = {getattr(parts, name) for name in parts.__all__}
    stock = {cls for cls in every if "__part__" in vars(cls)}
    setups = {parts.Federated, parts.Central, parts.OnShares}
    assert stock - offered - setups == {
        *(parts.Optax, parts.Flax, parts.FlaxRegression, parts.FlaxSequence),
        parts.FlaxSurvival,
    }
    assert offered <= stock
