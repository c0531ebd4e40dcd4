"""What lies on disk is checked: damage is named, and only what it touched is made
again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import lab
from ppml_lab.lab import parts

SETUP = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(5),
    mechanism=parts.Gaussian(0.5, 1.0),
    schedule=lab.Schedule(num_rounds=6, eval_every=2),
    layout=lab.Layout(num_devices=1),
)


def points(count: int) -> list[lab.Point]:
    return lab.points(lab.seeds(count), SETUP, delta=1e-2)


def last(outcomes: list[lab.Outcome]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in one.last.items() if not k.endswith("seconds")}
        for one in outcomes
    ]


class Ears:
    """A report that remembers."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.said: list[str] = []
        self.left = stop_after

    def __call__(self, done: int, text: str) -> None:
        self.said.append(text)
        self.left -= done
        if self.left < 0:
            raise InterruptedError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[lab.Outcome]]:
    """Seven finished runs."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, lab.run_sweep(points(7), folder, slice_size=4)


def emptied(run: Path) -> str:
    (run / "result.json").write_text("")
    return "result.json"


def another_number(run: Path) -> str:
    path = run / "result.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"accuracy": 0.99}))
    return "result.json"


def a_list(run: Path) -> str:
    (run / "result.json").write_text("[]")
    return "result.json"


def one_round_less(run: Path) -> str:
    path = run / "rounds.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    return "rounds.jsonl"


def no_rounds(run: Path) -> str:
    (run / "rounds.jsonl").unlink()
    return "rounds.jsonl"


def half_a_provenance(run: Path) -> str:
    path = run / "provenance.json"
    path.write_text(path.read_text()[:100])
    return "provenance.json"


DAMAGES: list[Callable[[Path], str]] = [
    emptied,
    another_number,
    a_list,
    one_round_less,
    no_rounds,
    half_a_provenance,
]


def test_damaged_results_are_named_and_made_again_and_the_others_are_kept(
    whole: tuple[Path, list[lab.Outcome]], tmp_path: Path
) -> None:
    folder, before = whole
    here = tmp_path / "damaged"
    shutil.copytree(folder, here)
    runs = [here / "runs" / one.folder.name for one in before]
    files = [damage(run) for damage, run in zip(DAMAGES, runs[:6], strict=True)]
    for stray in ("runs/.DS_Store", "checkpoints/.DS_Store", "checkpoints/lost+found"):
        (here / stray).parent.mkdir(exist_ok=True)
        (here / stray).write_text("")
    ears = Ears()
    after = lab.run_sweep(points(7), str(here), report=ears, slice_size=4)
    assert last(after) == last(before)
    for run, file in zip(runs, files, strict=False):
        assert any(str(run / file) in text for text in ears.said), (run, file)
    assert "1 runs were finished before" in ears.said
    assert (here / "checkpoints" / ".DS_Store").exists()


def test_unfinished_runs_go_on_only_from_what_is_whole(
    whole: tuple[Path, list[lab.Outcome]], tmp_path: Path
) -> None:
    _, before = whole
    with pytest.raises(InterruptedError):
        lab.run_sweep(
            points(3), tmp_path, slice_size=3, checkpoint_seconds=0, report=Ears(6)
        )
    (saved,) = tmp_path.glob("checkpoints/*/*")
    lacking = tmp_path / "runs" / before[0].folder.name / "rounds.jsonl"
    lines = lacking.read_text().splitlines(keepends=True)
    lacking.write_text("".join([*lines[:1], *lines[2:]]))
    ears = Ears()
    after = lab.run_sweep(points(3), tmp_path, report=ears, slice_size=3)
    assert last(after) == last(before[:3])
    assert [text for text in ears.said if "starts again" in text] == [
        f"{lacking} lacks some of the {saved.name} rounds before {saved}: "
        f"run {before[0].folder.name} starts again"
    ]
    assert [len(one.history("cohort_size")) for one in after] == [6, 6, 6]


def test_runs_of_other_code_are_said_and_made_anew_where_that_is_wanted(
    whole: tuple[Path, list[lab.Outcome]], tmp_path: Path
) -> None:
    folder, before = whole
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    stamp = tmp_path / "runs" / before[1].folder.name / "provenance.json"
    found = json.loads(stamp.read_text())
    stamp.write_text(json.dumps(found | {"made_by": {"code": "other"}}))
    ears = Ears()
    lab.run_sweep(points(2), tmp_path, report=ears)
    assert any("1 finished runs were made by other code" in text for text in ears.said)
    assert json.loads(stamp.read_text())["made_by"]["code"] == "other"
    after = lab.run_sweep(points(2), tmp_path, report=ears, again=True)
    assert last(after) == last(before[:2])
    assert json.loads(stamp.read_text())["made_by"] == found["made_by"]


def test_checkpoints_of_other_code_are_left_unless_wanted(
    whole: tuple[Path, list[lab.Outcome]], tmp_path: Path
) -> None:
    _, before = whole
    with pytest.raises(InterruptedError):
        lab.run_sweep(points(1), tmp_path, checkpoint_seconds=0, report=Ears(2))
    (ledger,) = tmp_path.glob("checkpoints/*/*/ledger/ledger.json")
    found = json.loads(ledger.read_text())
    found["made_by"]["code"] = "other"
    ledger.write_text(json.dumps(found))
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path, kept)
    for folder, go_on, words in (
        (tmp_path, False, "was made by other code: its runs start again"),
        (kept, True, "was made by code other and continues with"),
    ):
        ears = Ears()
        # Saved anew at the same rounds.
        after = lab.run_sweep(
            points(1), folder, report=ears, go_on=go_on, checkpoint_seconds=0
        )
        assert any(words in text for text in ears.said), ears.said
        assert last(after) == last(before[:1])


def test_a_table_names_all_that_its_runs_were_made_at(
    whole: tuple[Path, list[lab.Outcome]],
) -> None:
    from ppml_lab.lab.disk import provenance

    found = provenance.of_runs(one.folder for one in whole[1])
    assert len(found["commits"]) == len(found["codes"]) == len(found["devices"]) == 1
    assert set(found["commits"][0]) == {"git_commit", "git_dirty"}


def test_a_run_on_other_data_is_no_beginning_of_this_one(
    whole: tuple[Path, list[lab.Outcome]], tmp_path: Path
) -> None:
    """As another process leaves it, whose data part drew other rows."""
    folder, outcomes = tmp_path / "copy", whole[1]
    shutil.copytree(whole[0], folder)
    run = folder / "runs" / outcomes[2].folder.name
    stray = run.rename(run.with_name("0" * 16))
    config = json.loads((stray / "config.json").read_text())
    (stray / "config.json").write_text(json.dumps(config | {"data": "other"}))
    with pytest.raises(ValueError, match=r"0000 .*Digits.load\(\) gives now: .*again"):
        lab.run_sweep(points(7), folder)
    assert not run.exists()
    # Runs of other seeds stand in nobody's way.
    assert last(lab.run_sweep(points(2), folder)) == last(outcomes[:2])
    made = lab.run_sweep(points(7), folder, again=True)
    assert last(made) == last(outcomes)
    # What was made on purpose is there.
    assert lab.run_sweep(points(7), folder) == made
    (stray / "config.json").write_text("{")
    shutil.rmtree(run)
    assert last(lab.run_sweep(points(7), folder)) == last(outcomes)
