"""README's experiment of one's own, outside of the clone and beside the package."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "ppml_lab" / "lab" / "README.md"


ROOT = README.parents[2]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with README's experiment in it."""
    (code,) = re.findall(
        r"runs this -->\n```python\n(.*?)```", README.read_text(), re.S
    )
    (tmp_path / "own.py").write_text(code)
    return tmp_path


def start(folder: Path, *options: str, package: Path = ROOT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "own", "smoke", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(package), "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, *options: str, package: Path = ROOT) -> str:
    with start(folder, *options, package=package) as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def rows(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return list(csv.DictReader(file))


def test_each_part_is_short() -> None:
    code = README.read_text()
    found = re.findall(r"(@lab\.part\nclass (\w+).*?)(?=\n\n\n)", code, re.S)
    lengths = {}
    for text, name in found:
        # Without documentation and blank lines.
        bare = re.sub(r'^ +""".*?"""$', "", text, flags=re.S | re.M)
        lengths[name] = len([line for line in bare.splitlines() if line.strip()])
    del lengths["Experiment"]
    assert len(lengths) == 6
    assert max(lengths.values()) <= 15, lengths


def test_its_help_shows_its_own_fields_and_their_words(elsewhere: Path) -> None:
    said = run(elsewhere, "--help")
    for text in ("--setup.trainer.damping", "The part.", "setup.mechanism:noise"):
        assert text in said, said
    # A part that is not chosen has no flags.
    assert "--setup.mechanism.noise-multiplier" not in said


@pytest.mark.exhaustive  # the same by hand: test_killing, test_shards
@pytest.mark.slow
def test_killed_and_in_shards_it_ends_with_the_whole_table(elsewhere: Path) -> None:
    with start(elsewhere) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "rounds" in line and "/" in line.split()[0]:
                break
        process.send_signal(signal.SIGKILL)
    run(elsewhere, "--shard", "1/2")
    said = run(elsewhere, "--shard", "2/2")
    assert "wrote" in said
    found = rows(elsewhere / "results" / "own" / "smoke" / "table.csv")
    assert [*found[0]][:4] == ["target_epsilon", "damping", "seed", "within"]
    assert len(found) == 8
    assert all(float(row["within"]) > 0.2 for row in found)
    for row in found:
        stated = float(row["epsilon_public"])
        assert 0.99 * float(row["target_epsilon"]) < stated
        assert stated <= float(row["target_epsilon"])
    assert len({row["key"] for row in found}) == 4
    said = {"command": "python -m own smoke", "metric": "within", "cohort": "20"}
    said |= {"dataset": "Patients", "model": "Linear", "uplink_bytes": "8"}
    for row in found:
        assert {name: row[name] for name in said} == said


@pytest.mark.exhaustive
def test_beside_the_installed_wheel(elsewhere: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(ROOT)], check=True)
    assert (site / "ppml_lab" / "lab" / "parts").is_dir()
    said = run(elsewhere, "--num-seeds", "1", package=site)
    assert "wrote" in said
    assert len(rows(elsewhere / "results" / "own" / "smoke" / "table.csv")) == 4
