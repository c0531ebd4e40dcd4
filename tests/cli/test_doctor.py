"""`doctor`, on this machine and on folders made for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppml_lab.__main__ import main
from ppml_lab.cli import machine, places
from ppml_lab.data import datasets, files


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An empty folder to run in, with a cache that is not there yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PPML_LAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def put(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"12345")


def data_sets():
    found = places.data_sets()
    assert not found.problems
    return {row["name"]: row for row in found.facts["data"]}, found.warnings


def test_this_machine_is_well(here, capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["devices"]["count"] == 4
    assert found["devices"]["cpu_cores"] >= 1
    assert [row["name"] for row in found["data"]] == datasets.names()
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("the lab can run here\n")
    assert "fashion_mnist  missing" in text
    # Neither a download nor a folder was begun.
    assert not list(here.iterdir())


def test_versions_are_held_to_what_is_needed():
    wanted = [
        "python>=3.11",
        "numpy>=2.0.0",
        "jax>=99.1",
        "no-such-thing>=1",
        "x[y]>=1",
    ]
    found = machine.versions(wanted)
    assert found.facts["no-such-thing"] is None
    old, absent = found.problems
    assert old.startswith("jax must be at least 99.1, got")
    assert "pip install 'no-such-thing>=1'" in absent


def test_releases_compare_as_numbers():
    ordered = ["0.9.12", "0.10.2", "0.10.10rc1", "1.0", "2"]
    assert sorted(ordered, key=machine._numbers) == ordered
    assert machine._numbers("2.0.0") == machine._numbers("2")


def test_what_the_lab_needs_is_here():
    found = machine.packages()
    assert found.problems == []
    assert "jax" in found.facts
    assert "pytest" not in found.facts


def test_idle_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert machine.idle_gpus(tmp_path) == []
    (tmp_path / "nvidia0").touch()
    assert (
        "a GPU is here (nvidia0) but not used; jax " in machine.idle_gpus(tmp_path)[0]
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "JAX_PLATFORMS is cpu; unset it" in machine.idle_gpus(tmp_path)[0]


def test_data_sets_are_found_where_loaders_find_them(here, monkeypatch):
    put(here / "mine" / "mnist", datasets.sources("mnist").needed)
    put(here / "cache" / "ppml_lab" / "adult", datasets.sources("adult").needed)
    monkeypatch.setenv("PPML_LAB_DATA", str(here / "mine"))
    rows, warnings = data_sets()
    # What lies there is not what is published.
    assert rows["mnist"]["state"] == rows["adult"]["state"] == "other files"
    assert "is not the file that" in rows["mnist"]["advice"]
    monkeypatch.setattr(files, "check_published", lambda path, source: None)
    rows, warnings = data_sets()
    assert warnings == []
    assert rows["digits"]["state"] == "built in"
    assert rows["adult"]["state"] == "found"
    assert rows["adult"]["folder"] == str(here / "cache" / "ppml_lab" / "adult")
    assert rows["mnist"]["folder"] == str(here / "mine" / "mnist")
    assert rows["mnist"]["missing_files"] == [*datasets.sources("mnist").optional]
    assert "users are unknown" in rows["mnist"]["advice"]
    # What nobody has published a SHA-256 for is not downloaded.
    assert rows["location30"]["advice"] == "never downloaded; put its 1 files there"
    assert "or mit_shakespeare_html.tar.xz" in rows["shakespeare"]["advice"]
    put(here / "mine" / "shakespeare", datasets.sources("shakespeare").instead)
    assert data_sets()[0]["shakespeare"]["folder"] == str(here / "mine/shakespeare")
    assert rows["heart_disease"]["state"] == "missing"
    assert rows["heart_disease"]["folder"] == str(here / "mine" / "heart_disease")
    assert "put its 4 files there" in rows["heart_disease"]["advice"]


def test_a_data_folder_that_leads_nowhere(here, monkeypatch):
    monkeypatch.setenv("PPML_LAB_DATA", str(here / "nowhere"))
    assert "which is not a folder" in data_sets()[1][0]
    monkeypatch.setenv("PPML_LAB_DATA", str(here))
    assert "which holds no data set" in data_sets()[1][0]


def test_folders(here, monkeypatch):
    put(here / "results" / "mine", ["table.csv"])
    put(here / "cache" / "ppml_lab" / "adult", ["adult.data", "adult.test"])
    found = places.folders()
    assert found.problems == []
    results, downloads, _ = found.facts["folders"]
    assert (results["bytes"], results["writable"]) == (5, True)
    assert (downloads["bytes"], downloads["writable"]) == (10, True)
    # Below a file nothing can be made, whoever asks.
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "results" / "mine" / "table.csv"))
    assert "nothing can be downloaded" in places.folders().warnings[0]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_problems_are_listed_with_code_1(here, capsys, monkeypatch):
    monkeypatch.chdir("/proc")
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 1
    text = capsys.readouterr().out
    assert "problem: /proc/results cannot be written" in text
    assert text.endswith("the lab cannot run here\n")


def test_a_platform_that_is_not_there(here):
    done = subprocess.run(
        [sys.executable, "-m", "ppml_lab", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {"JAX_PLATFORMS": "tin", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem.startswith("jax finds no device")
    assert problem.endswith("unset JAX_PLATFORMS")


def test_what_fits_of_an_experiment(here, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["doctor", "--experiment", "heterogeneity", "--config", "none"]) == 2
    assert (
        "config 'none' of heterogeneity must be one of: smoke"
        in capsys.readouterr().err
    )
    assert main(["doctor", "--experiment", "scaling"]) == 2
    assert "has no function points(config)" in capsys.readouterr().err
    assert main(["doctor", "--experiment", "none"]) == 2
    assert "experiment 'none' must be one of: audit_epsilon" in capsys.readouterr().err
