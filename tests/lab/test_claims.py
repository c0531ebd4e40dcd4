"""Claims of processes that write to the same results folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppml_lab import lab
from ppml_lab.lab import parts, processes
from ppml_lab.lab.results import run_of

HOLDER = """
import sys
from pathlib import Path
from ppml_lab.lab.processes import open_claims
with open_claims(Path(sys.argv[1])) as claims:
    print([claims.take(name) for name in sys.argv[2:]], flush=True)
    input()
"""


def test_a_run_is_left_to_the_process_that_has_it_until_that_ends(
    tmp_path: Path,
) -> None:
    setup = parts.Federated(
        partition=parts.Iid(20),
        sampler=parts.Poisson(5),
        schedule=lab.Schedule(num_rounds=2, eval_every=2),
    )
    points = lab.points(lab.seeds(3), setup)
    runs = [run_of(point, tmp_path) for point in points]
    half = tmp_path / "checkpoints" / "5ce0" / "20.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        [*command, runs[1].name, "5ce0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "[True, True]\n"
        with processes.open_claims(tmp_path) as mine:
            assert [mine.take(run.name) for run in runs] == [True, False, True]
        with pytest.raises(lab.MadeElsewhereError, match="1 of 3 runs are being made"):
            lab.run_sweep(points, tmp_path, slice_size=2)
        assert [run.is_finished for run in runs] == [True, False, True]
        # What the other may be writing stays, too.
        assert half.exists()
        other.kill()
    assert len(lab.run_sweep(points, tmp_path)) == 3
    assert not half.exists()
