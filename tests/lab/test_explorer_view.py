"""The tidy view over results tables."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import tables
from ppml_lab.cli import experiments, explored
from ppml_lab.lab import explorer
from ppml_lab.lab.explorer import view

ROOT = Path(__file__).resolve().parents[2]

COLUMNS: dict[str, tables.Value] = {
    "experiment": "mine",
    "dataset": "Digits",
    "model": "Logistic",
    "pattern": "federated",
    "privacy_unit": "client",
    "neighboring_relation": "add_or_remove_one",
    "trust": "central",
    "epsilon_public": 4.0,
    "epsilon_server": math.inf,
    "adversary": "public",
    "delta": 1e-3,
    "accountant": "pld",
    "metric": "accuracy",
    "num_rounds": 10,
    "uplink_bytes": 100,
    "wan_seconds": 0.5,
    "compute_seconds": 0.1,
    "measured_or_projected": "measured",
    "command": "python -m mine",
    "commit": "abc",
}


def row(rate: float, seed: int, accuracy: float, **other: Any) -> tables.Row:
    own: tables.Row = {"rate": rate, "seed": seed, "accuracy": accuracy}
    return own | COLUMNS | other


def settings(
    rows: list[tables.Row], declared: view.Declared | None = None
) -> list[explorer.Setting]:
    return explorer.of_table(
        rows, experiment="mine", configuration="paper", declared=declared
    )


def test_rows_that_differ_in_the_seed_are_one_setting() -> None:
    rows = [row(0.1, 0, 0.8), row(0.1, 1, 0.9), row(0.3, 0, 0.5)]
    first, second = settings(rows)
    assert (first.labels, first.values) == ({"rate": 0.1}, [0.8, 0.9])
    assert first.mean == pytest.approx(0.85)
    assert first.std == pytest.approx(0.05 * 2**0.5)
    assert (first.num_seeds, second.num_seeds, second.std) == (2, 1, None)
    # Bytes and seconds are of the whole run.
    assert (first.upload_bytes, first.wan_seconds) == (1000, 5)
    assert first.compute_seconds == pytest.approx(1.0)
    assert (first.epsilon, first.delta, first.is_projected) == (4.0, 1e-3, False)


def test_what_promises_nothing_has_no_unit_and_what_diverged_is_in_no_mean() -> None:
    public = {"epsilon_public": None, "privacy_unit": "client"}
    (found,) = settings([row(0.1, 0, math.nan, **public), row(0.1, 1, 0.5, **public)])
    assert found.epsilon == math.inf
    assert (found.privacy_unit, found.trust, found.delta) == (None, None, None)
    assert (found.values, found.num_seeds, found.num_diverged) == ([0.5], 2, 1)


def test_other_data_and_projections_are_settings_of_their_own() -> None:
    rows = [
        row(0.1, 0, 0.8),
        row(0.1, 0, 0.8, dataset="Mnist"),
        row(0.1, 0, 0.8, measured_or_projected="projected"),
    ]
    found = settings(rows)
    assert [one.dataset for one in found] == ["Digits", "Mnist", "Digits"]
    assert [one.is_projected for one in found] == [False, False, True]


def test_a_table_of_other_names_is_declared() -> None:
    rows: list[tables.Row] = [
        {"case": "heart", "kind": kind, "value": value, "bytes": 7, "note": note}
        for kind, value, note in (
            ("bound", 0.2, "a"),
            ("bound", 0.3, "a"),
            ("guess", 9.0, "b"),
        )
    ]
    declared: view.Declared = {
        "by": ["case"],
        "names": {"dataset": "case", "uplink_bytes": "bytes"},
        "words": {"dataset": {"heart": "HeartDisease"}},
        "constants": {
            **{name: None for name in view.COLUMNS},
            "privacy_unit": {"case": {"heart": "example"}},
            "epsilon_public": 1.0,
        },
        "of_a_run": True,
        "attack": {"name": ["note"], "value": "value", "where": {"kind": "bound"}},
    }
    (found,) = settings(rows, declared)
    assert (found.dataset, found.privacy_unit) == ("HeartDisease", "example")
    assert (found.upload_bytes, found.values) == (7, [])
    assert found.attacks == [explorer.Attack("a", 0.3)]
    assert found.lower_bound == 0.3


def test_a_table_without_the_columns_is_refused_by_their_names() -> None:
    rows: list[tables.Row] = [{"seed": 0, "accuracy": 0.5, "dataset": "x"}]
    with pytest.raises(ValueError, match=r"lacks model, pattern, .*make it again"):
        settings(rows)
    other = {k: v for k, v in row(0.1, 0, 0.5).items() if k != "seed"}
    with pytest.raises(ValueError, match="no column seed"):
        settings([other])


def write(folder: Path, rows: list[tables.Row]) -> None:
    folder.mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


def test_folders_of_a_user(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "good", [row(0.1, 0, 0.5)])
    write(tmp_path / "mine" / "old", [{"seed": 0, "accuracy": 0.5}])
    found = explorer.of_folders([tmp_path / "mine"])
    assert [one.configuration for one in found.settings] == ["good"]
    assert len(found.notes) == 1
    assert "old" in found.notes[0]
    with pytest.raises(ValueError, match=r"no table can be shown: .*lacks dataset"):
        explorer.of_folders([tmp_path / "mine" / "old"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no table\.csv"):
        explorer.of_folders([tmp_path / "empty"])


def test_the_committed_view_is_that_of_the_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wheel's copy; `make pages` writes it."""
    monkeypatch.chdir(ROOT)
    found = explored.of_clone()
    assert view.KEPT.read_text() == found.to_json()
    kept = explorer.committed()
    assert view.View.of_json(found.to_json()) == kept
    counts = Counter(one.experiment for one in kept.settings)
    assert counts["privacy_utility"] == 31 + 15  # pixels, scattering features
    assert sum(counts.values()) == len(found.settings)
    for one in kept.settings:
        assert one.command
        assert one.commit
        assert one.epsilon < math.inf or one.privacy_unit is None
        assert one.attacks or one.mean is not None, one


def test_every_experiment_with_a_table_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    for path in experiments.find().values():
        assert experiments.literal(path, "EXPLORED") is not None, path
    monkeypatch.setattr(experiments, "literal", lambda path, name: None)
    with pytest.raises(ValueError, match="says nothing of it: add EXPLORED"):
        explored.of_clone()
