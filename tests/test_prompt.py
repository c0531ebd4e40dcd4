"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from scipy import stats

from ppml_lab import __main__ as prompt

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
    assert "rdp  6.71274   the headline" in done.stdout
    assert "pld  6.1877" in done.stdout  # the next digit varies with NumPy


def test_calibrate_as_json():
    done = run(*CALIBRATE, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["target_epsilon"] == 2.0
    assert found["num_steps"] == 10
    # Ten releases are one with sqrt(10) times less noise: Balle and Wang's closed form.
    mean = math.sqrt(10) / found["pld"]
    upper = stats.norm.cdf(mean / 2 - 2 / mean)
    lower = math.exp(2) * stats.norm.cdf(-mean / 2 - 2 / mean)
    assert upper - lower == pytest.approx(1e-5, rel=1e-3)
    assert found["pld"] < found["rdp"] < 1.2 * found["pld"]


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
        ("--num-steps", "0", "num_rounds must be an integer of at least 1, got 0"),
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


@pytest.mark.parametrize("args", [["--help"], ["epsilon", "--help"]])
def test_help_has_an_example(capsys, args):
    with pytest.raises(SystemExit) as stopped:
        prompt.main(args)
    assert stopped.value.code == 0
    assert "python -m ppml_lab epsilon --sampling-prob" in capsys.readouterr().out


def test_help_is_fast():
    code = (
        "import sys, ppml_lab.__main__;"
        "sys.exit(any(name in sys.modules for name in ('jax', 'dp_accounting')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
