"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

from ppml_lab import __main__ as prompt

ROOT = Path(__file__).resolve().parents[1]
EPSILON = ["epsilon", "--sampling-prob", "0.01", "--noise-multiplier", "1.0"]
EPSILON += ["--num-steps", "10000", "--delta", "1e-5"]
CALIBRATE = ["calibrate", "--target-epsilon", "2", "--sampling-prob", "1"]
CALIBRATE += ["--num-steps", "10", "--delta", "1e-5"]


def run(*args):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "ppml_lab", *args],
        capture_output=True,
        text=True,
        check=False,
    )


def test_epsilon_as_text():
    done = run(*EPSILON)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Poisson sampling, add-or-remove-one neighbours" in done.stdout
    assert "rdp  6.71274   live and resumed" in done.stdout
    assert "pld  6.1877" in done.stdout  # the next digit varies with NumPy
    assert "report this number" in done.stdout
    assert "against whoever sees the releases, not who runs the protocol" in done.stdout


def test_calibrate_as_json(capsys):
    assert prompt.main([*CALIBRATE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target_epsilon"] == 2.0
    assert found["num_steps"] == 10
    # Ten releases are one with sqrt(10) times less noise: Balle and Wang's closed form.
    mean = math.sqrt(10) / found["pld"]
    upper = stats.norm.cdf(mean / 2 - 2 / mean)
    lower = math.exp(2) * stats.norm.cdf(-mean / 2 - 2 / mean)
    assert upper - lower == pytest.approx(1e-5, rel=1e-3)
    assert found["pld"] < found["rdp"] < 1.2 * found["pld"]


@pytest.mark.exhaustive
def test_bad_input_is_one_line_and_code_2():
    done = run(*EPSILON[:-1], "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ppml_lab: error: delta must lie in (0, 1), got 2.0\n"


def test_epsilon_as_json(capsys):
    assert prompt.main([*EPSILON, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rdp"] == pytest.approx(6.712738297, rel=1e-6)
    assert found["pld"] == pytest.approx(6.187744976, rel=1e-4)
    assert found["sampling_prob"] == 0.01
    assert found["noise_multiplier"] == 1.0
    assert found["num_steps"] == 10000
    assert found["delta"] == 1e-5


def test_no_noise_is_strict_json(capsys):
    args = [*EPSILON, "--json"]
    args[args.index("--noise-multiplier") + 1] = "0"
    assert prompt.main(args) == 0
    found = json.loads(
        capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name)
    )
    assert found["rdp"] == found["pld"] == "inf"


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--sampling-prob", "1.5", "sampling_prob must lie in (0, 1], got 1.5"),
        ("--noise-multiplier", "-1", "noise_multiplier must be finite and not neg"),
        ("--num-steps", "0", "num_steps must be an integer of at least 1, got 0"),
        ("--delta", "nan", "delta must lie in (0, 1), got nan"),
    ],
)
def test_bad_values(capsys, flag, value, message):
    args = [*EPSILON]
    args[args.index(flag) + 1] = value
    assert prompt.main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"ppml_lab: error: {message}")


@pytest.mark.parametrize(
    "args",
    [[], ["epsilon"], ["tune"], [*EPSILON, "--detla", "1"], [*EPSILON[:-1], "x"]],
)
def test_arguments_that_do_not_parse(capsys, args):
    with pytest.raises(SystemExit) as stopped:
        prompt.main(args)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err != ""


def helped(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        prompt.main([*args, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", prompt.COMMANDS)
def test_every_command_has_an_example_and_json(capsys, command):
    assert command in helped(capsys)
    text = helped(capsys, command)
    assert f"Example: python -m ppml_lab {command}" in text
    assert "--json" in text


@pytest.mark.parametrize(
    "command",
    [
        *("list", "show", "epsilon", "cost"),
        pytest.param("doctor", marks=pytest.mark.exhaustive),  # cli/test_doctor
    ],
)
def test_examples_run_and_json_is_one_line(capsys, monkeypatch, command):
    """`run`, `merge` and `compare` name results that are not there; `calibrate` is the
    README's.
    """
    monkeypatch.chdir(ROOT)
    documented = prompt.COMMANDS[command].__doc__ or ""
    example = documented.partition("Example: python -m ppml_lab ")[2]
    args = example.partition("\n\n")[0].split()
    assert args[0] == command
    assert prompt.main([*args, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)


def test_commands_load_no_more_than_they_need():
    code = """
import sys
from ppml_lab.__main__ import main
main(["list"]), main(["show", "dp_sgd"])
sys.exit(any(name in sys.modules for name in ("jax", "numpy", "dp_accounting")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0


def test_a_reader_that_leaves_early():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "ppml_lab", "list", "--json"],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
