"""`run` and `merge` at the prompt, on small experiments of the tests' own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ppml_lab.__main__ import main

ECHO = '''"""What was asked?"""
import sys
if __name__ == "__main__":
    print("asked", *sys.argv[1:])
    if "fail" in sys.argv:
        raise ValueError("from within")
    if "stop" in sys.argv:
        sys.exit(3)
    if "write" in sys.argv:
        print("wrote table.csv")
'''
COUNT = '''"""How many?"""
from dataclasses import dataclass
from ppml_lab import lab

@dataclass(frozen=True)
class Config:
    rows: int = 3
    """How many."""

CONFIGS = {"smoke": Config()}

def measure(config):
    return [{"row": row} for row in range(config.rows)]

if __name__ == "__main__":
    lab.run_benchmark("count", __doc__, CONFIGS, measure)
'''


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder with two experiments; the process's own state is put back later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", sys.argv)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "echo.py").write_text(ECHO)
    (tmp_path / "experiments" / "below").mkdir()
    (tmp_path / "experiments" / "below" / "count.py").write_text(COUNT)
    return tmp_path


def test_options_are_the_experiments(folder, capsys):
    assert main(["run", "echo", "smoke", "--num-seeds", "2", "--help"]) == 0
    assert capsys.readouterr().out == "asked smoke --num-seeds 2 --help\n"
    assert main(["merge", "echo", "smoke", "--out", "x"]) == 0
    assert capsys.readouterr().out == "asked smoke --out x --merge\n"


@pytest.mark.parametrize("args", [["--json", "echo"], ["echo", "--json"]])
def test_json_wherever_it_stands(folder, capsys, args):
    assert main(["run", *args, "-v"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "asked -v\n"
    found = json.loads(captured.out)
    assert found.pop("seconds") >= 0
    assert found == {"table": None, "rows": None, "provenance": None}
    (folder / "table.csv").write_text("a,b\n1,2\n3,4\n")
    main(["run", *args, "write"])
    found = json.loads(capsys.readouterr().out)
    assert (found["table"], found["rows"]) == ("table.csv", 2)


def test_exit_codes_are_passed_on(folder, capsys):
    for word, code in {"stop": 3, "fail": 1}.items():
        with pytest.raises(SystemExit) as stopped:
            main(["run", "echo", word, "--json"])
        assert stopped.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" in captured.err
    assert "ValueError: from within" in captured.err


def test_unknown_experiments(folder, capsys, monkeypatch):
    assert main(["run", "ecko"]) == 2
    assert "did you mean 'echo'? Known: count, echo" in capsys.readouterr().err
    monkeypatch.chdir(folder / "experiments")
    assert main(["merge", "echo"]) == 2
    assert "no experiments in" in capsys.readouterr().err


def test_a_real_one_as_a_user_runs_it(folder):
    root = Path(__file__).resolve().parents[2]
    args = ["run", "count", "smoke", "--rows", "4", "--json"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ppml_lab", *args],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["table"], found["rows"]) == ("results/count/smoke/table.csv", 4)
    said = json.loads((folder / found["provenance"]).read_text())
    assert said["config"]["fields"] == {"rows": 4}
    # By the name that it has for whoever imports it.
    assert said["config"]["class"] == "experiments.below.count.Config"
    assert said["command"] == ["count.py", *args[2:-1]]
