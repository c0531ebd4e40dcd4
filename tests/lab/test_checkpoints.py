"""What checkpoints keep, which of them is taken, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab.lab.disk import checkpoints
from ppml_lab.lab.processes import open_claims

STATES = {
    "params": jnp.array([[1e-40, -0.0], [jnp.pi, jnp.nan], [1.0, 2.0]], jnp.float32),
    "more": (jnp.arange(3, dtype=jnp.uint32), jnp.zeros((3, 0))),
}

MADE_BY = {"code": "of these tests"}


def save(folder: Path, name: str, rounds: int, runs: list[str]) -> None:
    spent: dict[str, Any] = {run: (row, {"a": run}) for row, run in enumerate(runs)}
    checkpoints.save(folder, name, rounds, STATES, spent, MADE_BY)


def find(folder: Path) -> Any:
    """All that is there, and nothing is damaged."""
    return checkpoints.find(folder, lambda run, saved: True, pytest.fail)


def test_rows_of_several_checkpoints_are_gathered_to_the_bit(tmp_path: Path) -> None:
    save(tmp_path, "f125", 10, ["a", "b", "c"])
    save(tmp_path, "5ec0", 20, ["d", "b"])
    found = find(tmp_path)
    assert {run: saved.rounds for run, saved in found.items()} == {
        "a": 10, "b": 20, "c": 10, "d": 20,
    }  # fmt: skip
    assert [found[run].spent for run in "ab"] == [{"a": "a"}, {"a": "b"}]
    loaded = checkpoints.load([found[run] for run in "cbda"], STATES)
    for leaf, old in zip(jax.tree.leaves(loaded), jax.tree.leaves(STATES), strict=True):
        expected = np.asarray(old)[[2, 1, 0, 0]]
        assert leaf.dtype == expected.dtype
        assert leaf.tobytes() == expected.tobytes()


def test_a_slice_keeps_its_newest_checkpoint_alone(tmp_path: Path) -> None:
    for rounds in (9, 10):
        save(tmp_path, "5ce0", rounds, ["a"])
    (path,) = (tmp_path / "checkpoints" / "5ce0").iterdir()
    assert path.name == "10"
    # Half-written ones are not found, and go.
    half = path.with_name("20.orbax-checkpoint-tmp-1")
    shutil.copytree(path, half)
    assert find(tmp_path)["a"].rounds == 10
    with open_claims(tmp_path) as claims:
        checkpoints.clean(tmp_path, lambda run: False, claims)
        assert [*path.parent.iterdir()] == [path]
        checkpoints.clean(tmp_path, lambda run: run == "a", claims)
    assert not path.parent.exists()


@pytest.mark.parametrize("what", ["ledger/ledger.json", "states"])
def test_killed_between_a_new_checkpoint_and_the_old_ones_end(
    tmp_path: Path, what: str
) -> None:
    save(tmp_path, "5ce0", 9, ["a"])
    (old,) = (tmp_path / "checkpoints" / "5ce0").iterdir()
    kept = shutil.copytree(old, tmp_path / "kept")
    save(tmp_path, "5ce0", 10, ["a"])
    # The old one was being removed: some of its files are gone.
    shutil.copytree(kept, old)
    gone = old / what
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    found = checkpoints.find(tmp_path)["a"]
    assert found.rounds == 10
    checkpoints.load([found], STATES)
    save(tmp_path, "5ce0", 11, ["a"])
    assert [path.name for path in old.parent.iterdir()] == ["11"]


def test_another_programs_states_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "5ce0", 10, ["a"])
    saved = [find(tmp_path)["a"]]
    other = {**STATES, "params": jnp.zeros((3, 5))}
    with pytest.raises(
        ValueError, match=r"array \['params'\] is float32\[2\], but .* float32\[5\]"
    ):
        checkpoints.load(saved, other)
    with pytest.raises(ValueError, match=r"array \['new'\] is missing"):
        checkpoints.load(saved, STATES | {"new": jnp.zeros((3, 1))})


def test_a_changed_bit_of_an_array_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "5ce0", 10, ["a", "b"])
    (path,) = (tmp_path / "checkpoints" / "5ce0").iterdir()
    saved = find(tmp_path)["a"]
    ledger = path / "ledger" / "ledger.json"
    # The same files but for one bit of one number.
    params = np.array(STATES["params"])
    params[0, 0] = 0.0
    (tmp_path / "other").mkdir()
    spent: dict[str, Any] = {run: (row, {}) for row, run in enumerate("ab")}
    checkpoints.save(
        tmp_path / "other", "5ce0", 10, STATES | {"params": params}, spent, MADE_BY
    )
    shutil.move(path / "states", tmp_path / "whole")
    other = tmp_path / "other" / "checkpoints" / "5ce0" / "10"
    shutil.copytree(other / "states", path / "states")
    with pytest.raises(
        ValueError,
        match=r"5ce0/10: its array \['params'\] has changed .* start again",
    ):
        checkpoints.load([saved], STATES)
    for file in (path / "states").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"5ce0/10: .* start again"):
        checkpoints.load([saved], STATES)
    shutil.rmtree(path / "states")
    shutil.move(tmp_path / "whole", path / "states")
    checkpoints.load([saved], STATES)
    # Rows that are swapped would give a run the state of another.
    text = ledger.read_text()
    for other in (text.replace('"row": 1', '"row": 2'), text[: len(text) // 2]):
        assert other != text
        ledger.write_text(other)
        said: list[str] = []
        assert not checkpoints.find(tmp_path, lambda run, saved: True, said.append)
        assert re.search(r"5ce0/10: its ledger.json .*start again", said[0])
