"""Scattering features of another part's images, as a part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ppml_lab import data, lab
from ppml_lab.data import scattering
from ppml_lab.lab import parts
from ppml_lab.lab.columns import title_of
from ppml_lab.lab.command import parse
from ppml_lab.lab.parts.choices import CHOICES

RNG = np.random.default_rng(0)
USERS = np.array(["a", "b", "a", "b", "c", "c"])


def rows(count: int, *shape: int) -> dict[str, np.ndarray]:
    return {
        "x": RNG.uniform(size=(count, *shape)).astype(np.float32),
        "y": np.arange(count) % 2,
        "weight": np.ones(count),
    }


IMAGES, TEST = rows(6, 8, 8, 1), rows(3, 8, 8, 1)


@lab.part
class Own:
    """Rows of one's own."""

    kind: str = "images"

    num_classes = 2

    def load(self) -> Any:
        """Whatever is asked for."""
        if self.kind == "clients":
            return data.federate(IMAGES, np.arange(6) % 2), None, TEST
        if self.kind == "uneven":
            return rows(6, 10, 9, 1), USERS, rows(3, 10, 9, 1)
        if self.kind == "table":
            return rows(6, 5), USERS, rows(3, 5)
        if self.kind == "grey":
            return rows(6, 8, 8), USERS, rows(3, 8, 8)
        return IMAGES, USERS, TEST


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scattering, "BATCH", 4)


def test_images_become_features_and_all_else_stays() -> None:
    part = parts.Scattered(data=Own())
    train, users, test = part.load()
    for made, of in ((train, IMAGES), (test, TEST)):
        assert made["x"].shape == (len(of["x"]), 2, 2, 81)
        np.testing.assert_array_equal(made["x"], scattering.features(of["x"]))
        assert {*made} == {*of}
        assert all(made[name] is of[name] for name in ("y", "weight"))
    assert users is USERS
    assert part.num_classes == 2
    setup = parts.Federated(
        data=part, partition=parts.Natural(), sampler=parts.Everyone()
    )
    facts = lab.facts_of(setup)
    assert (facts.num_clients, facts.num_classes) == (3, 2)
    assert facts.example["x"].shape == (2, 2, 81)
    assert not hasattr(parts.Diabetes(), "num_classes")
    assert parts.Scattered(data=parts.Diabetes()).num_classes is None


def test_features_are_made_once_and_nobody_can_change_them() -> None:
    part = parts.Scattered(data=Own())
    (train, _, test), (again, _, _) = part.load(), part.load()
    assert again["x"] is train["x"]
    assert part.load()[2]["x"] is test["x"]
    with pytest.raises(ValueError, match="read-only"):
        train["x"][0] = 0
    others = replace(part, num_groups=81).load()[0]["x"]
    assert not np.array_equal(others, train["x"])


def test_tables_say_whose_images_they_are() -> None:
    part = parts.Scattered(data=parts.Mnist())
    assert title_of(part) == "Mnist (scattering)"
    few = replace(part, data=Own("grey"), num_angles=4, num_groups=5)
    assert title_of(few) == "Own(kind='grey') (scattering, num_angles=4, num_groups=5)"


@pytest.mark.parametrize(
    ("own", "numbers", "message"),
    [
        (
            Own("table"),
            {},
            r"data Own: train must be images .* got .*'x': \[6, 5\].* give a part",
        ),
        (Own("grey"), {}, r"data Own: train must be images .*'x': \[6, 8, 8\]"),
        (Own("clients"), {}, r"data Own: train must be images .* got Clients"),
        (Own("uneven"), {}, r"data Own: train: images of 10x9 pixels .* crop or pad"),
        (Own(), {"num_scales": 3}, r"data Own: train: images of 8x8 .* num_scales 3"),
        (Own(), {"num_groups": 7}, "data Own: train: num_groups must divide the 81"),
    ],
)
def test_what_are_no_images_that_fit(own: Any, numbers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"Scattered\.{message}"):
        parts.Scattered(data=own, **numbers).load()


def test_images_are_chosen_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["data:scattered", "data.data:mnist", "--data.num-angles", "4"]
    monkeypatch.setattr("sys.argv", ["x", "smoke", *words])
    chosen = parse("x", "What for?", {"smoke": parts.Federated()}, (), CHOICES).config
    assert chosen.data == parts.Scattered(data=parts.Mnist(), num_angles=4)


@pytest.mark.exhaustive
def test_a_linear_model_of_features_learns(tmp_path: Any) -> None:
    setup = parts.Federated(
        data=parts.Scattered(data=parts.Digits()),
        partition=parts.Iid(20),
        sampler=parts.Everyone(),
        trainer=parts.FedAvg(parts.Sgd(0.05)),
        schedule=lab.Schedule(num_rounds=3, eval_every=3),
        layout=lab.Layout(num_devices=1),
    )
    (found,) = lab.run_sweep(lab.points(lab.seeds(1), setup), tmp_path / "runs")
    assert found.last["accuracy"] > 0.85
