"""A real SLURM, of one node: arrays, requeues, steps of several tasks, time limits.

`tests/slurm/start.sh` starts one on a Debian machine. What each way of running leaves
is the table of a single run. What the page's scripts do too is exhaustive.
"""

from __future__ import annotations

import csv
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ppml_lab.lab import stopping

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = """
import dataclasses
from ppml_lab import lab
from ppml_lab.lab import parts

@dataclasses.dataclass(frozen=True)
class Experiment:
    '''Three private runs.'''
    setup: parts.Federated = parts.Federated(
        partition=parts.Iid(20),
        sampler=parts.Poisson(5),
        mechanism=parts.Gaussian(0.5, 1.0),
        schedule=lab.Schedule(num_rounds=20, eval_every=1),
    )

def points(config):
    return lab.points(lab.seeds(3), config.setup, delta=1e-3)

def table(config, results):
    return [
        {**r.point.labels, "params": r.outcome.last["params_digest"]} for r in results
    ]

if __name__ == "__main__":
    lab.run_experiment("own", "", {"smoke": Experiment()}, points, table)
"""
TWO_CHUNKS = (
    *("--setup.schedule.num-rounds", "200"),
    *("--setup.schedule.evals-per-chunk", "100"),
)
LONG = ("--setup.schedule.num-rounds", "3000")


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def no_cluster() -> str:
    """Why there is none; nothing if there is one."""
    if shutil.which("sinfo") is None:
        return "no SLURM on this machine"
    found = subprocess.run(
        ["sinfo", "--noheader"], capture_output=True, text=True, check=False
    )
    return "" if found.returncode == 0 else f"SLURM does not answer: {found.stderr}"


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(no_cluster()), reason=no_cluster()),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the experiment, whence jobs start."""
    (tmp_path / "own.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("XLA_FLAGS", "")
    return tmp_path


def own(folder: str, *options: str) -> str:
    """The command line of the experiment."""
    return " ".join([sys.executable, "-m own smoke --out", folder, *options])


def submitted(command: str, *options: str) -> str:
    """The id of a job that runs a command; a script that is the command's process."""
    text = f"exec {command}"
    return said(
        *("sbatch", "--parsable", "--output=%x-%a.log", *options, "--wrap", text)
    ).strip()


def state_of(job: str) -> dict[str, str]:
    """What SLURM says of a job, by field; of an array the first task."""
    return dict(re.findall(r"(\w+)=(\S*)", said("scontrol", "show", "job", job)))


def wait(is_so: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, said("squeue")
        time.sleep(0.3)


def over(job: str) -> bool:
    return not said("squeue", "--noheader", "--jobs", job).strip()


def in_mid_run(folder: Path) -> bool:
    return bool([*folder.glob("checkpoints/*/*/ledger/ledger.json")])


def rows(folder: Path) -> list[dict[str, str]]:
    """A table without what another run may have otherwise."""
    with (folder / "table.csv").open() as file:
        return [
            {k: v for k, v in row.items() if not k.endswith("seconds")}
            for row in csv.DictReader(file)
        ]


@functools.cache
def alone(*options: str) -> list[dict[str, str]]:
    """The table of a single run without SLURM."""
    said(*own("alone", *options).split())
    return rows(Path("alone"))


@pytest.mark.exhaustive
def test_an_array_of_shards_makes_the_table_of_one_run(here: Path) -> None:
    job = submitted(own("shards"), "--array=1-3", "--job-name=shards")
    wait(lambda: over(job))
    texts = [(here / f"shards-{task}.log").read_text() for task in (1, 2, 3)]
    for task, text in enumerate(texts, 1):
        assert f"shard {task}/3, by the task of the SLURM array" in text, text
    assert any("wrote shards/table.csv" in text for text in texts)
    assert rows(here / "shards") == alone()


@pytest.mark.exhaustive
def test_a_job_that_is_requeued_in_mid_run_goes_on(here: Path) -> None:
    job = submitted(own("again", *LONG), "--requeue", "--job-name=again")
    wait(lambda: in_mid_run(here / "again"))
    said("scontrol", "requeue", job)
    # It begins again after a while of SLURM's own, unless it is told to at once.
    wait(lambda: state_of(job)["JobState"] == "PENDING")
    said("scontrol", "update", f"jobid={job}", "StartTime=now")
    wait(lambda: over(job), 200)
    assert state_of(job)["Restarts"] == "1"
    assert rows(here / "again") == alone(*LONG)


@pytest.mark.exhaustive
def test_tasks_of_a_step_compute_together_and_end_together(here: Path) -> None:
    step = ["srun", "--ntasks=2", "--overlap", "--overcommit"]
    # A round of two processes takes long on one machine.
    command = [*step, *own("step", "--setup.schedule.num-rounds", "300").split()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        wait(lambda: in_mid_run(here / "step"))
        found = said("pgrep", "-f", f"{sys.executable} -m own smoke --out step")
        tasks = [int(pid) for pid in found.split()]
        tasks = [pid for pid in tasks if "SLURM_PROCID" in environment_of(pid)]
        assert {environment_of(pid)["SLURM_PROCID"] for pid in tasks} == {"0", "1"}
        second = [p for p in tasks if environment_of(p)["SLURM_PROCID"] == "1"]
        begin = time.monotonic()
        os.kill(second[0], signal.SIGKILL)
        text, _ = process.communicate(timeout=120)
    assert process.returncode != 0, text
    assert time.monotonic() - begin < 90
    done = said(*command)
    assert done.count("wrote step/table.csv") == 1
    # Float sums of two processes are those of two devices, as alone.
    assert [row["seed"] for row in rows(here / "step")] == ["0", "1", "2"]
    assert {row["num_rounds"] for row in rows(here / "step")} == {"300"}


def environment_of(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/environ").read_text()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


@pytest.mark.exhaustive
def test_a_task_whose_time_is_over_stops_after_a_chunk_and_goes_on(here: Path) -> None:
    many = ("--setup.schedule.num-rounds", "100000")
    job = submitted(own("limit", *many), "--array=1-1", "--time=1", "--job-name=limit")
    wait(lambda: over(job), 240)
    text = (here / "limit-1.log").read_text()
    assert "stopped after a chunk (SIGTERM); the same command continues" in text, text
    state = state_of(job)
    assert state["JobState"] == "TIMEOUT", state
    assert state["ExitCode"].split(":")[0] in ("0", str(stopping.EXIT_CODE)), state
    assert in_mid_run(here / "limit")
    (reached,) = {path.name for path in (here / "limit").glob("checkpoints/*/*")}
    # Started again it goes on from there.
    job = submitted(
        own("limit", *many, "--stop-after", "5s"), "--array=1-1", "--job-name=more"
    )
    wait(lambda: over(job))
    state = state_of(job)
    assert (state["JobState"], state["ExitCode"]) == ("FAILED", "75:0"), state
    (later,) = {path.name for path in (here / "limit").glob("checkpoints/*/*")}
    assert int(later) > int(reached)


CLUSTER = ROOT / "ppml_lab" / "lab" / "CLUSTER.md"
TESTED = {
    "python -m experiments.dp_fedavg paper": f"{sys.executable} -m own smoke",
    "-m experiments.dp_fedavg paper": "-m own smoke",
    # One node, whose jobs are short.
    "--array=1-8": "--array=1-4",
    "--cpus-per-task=4": "--cpus-per-task=1",
    "--nodes=2": "--nodes=1",
    "--ntasks-per-node=4": "--ntasks-per-node=2",
    "--gpus-per-node=4": "--gpus-per-node=2",
}
"""What tests put for what CLUSTER.md says."""


def block(name: str) -> str:
    """A script of CLUSTER.md, as tests run it."""
    (text,) = re.findall(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```",
                         CLUSTER.read_text(), re.S)  # fmt: skip
    return adapted(text)


def adapted(text: str) -> str:
    for said_there, tested in TESTED.items():
        text = text.replace(said_there, tested)
    return text


@pytest.fixture
def scratch(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that all nodes share."""
    monkeypatch.setenv("SCRATCH", str(here))
    return here


def soon(job: str) -> None:
    """A job that was queued again begins after a while, unless it is told to."""
    for line in said("squeue", "--noheader", "--format=%i %T", "--jobs", job).split(
        "\n"
    ):
        if line.endswith(" PENDING"):
            subprocess.run(["scontrol", "update", f"jobid={line.split()[0]}",
                            "StartTime=now"], check=False,
                           capture_output=True)  # fmt: skip


def until_over(job: str, seconds: float = 300) -> None:
    def ended() -> bool:
        soon(job)
        return over(job)

    wait(ended, seconds)


def test_the_array_of_the_page_stops_goes_on_and_is_merged(scratch: Path) -> None:
    long = " ".join(TWO_CHUNKS)
    text = block("sweep.sh").replace("--stop-after 3h", f"{long} --stop-after 1s")
    (scratch / "sweep.sh").write_text(text)
    array = said("sbatch", "--parsable", "sweep.sh").strip()
    page = CLUSTER.read_text()
    (script,) = re.findall(r"```bash\narray=.*?\n(sbatch.*?)```", page, re.S)
    merge = adapted(script).replace("--merge", f"{long} --merge")
    merge = merge.replace("sbatch", f"array={array}; sbatch --parsable")
    job = said("bash", "-c", merge).strip()
    until_over(array)
    until_over(job)
    logs = [(scratch / f"sweep-{task}.log").read_text() for task in (1, 2, 3, 4)]
    assert "shard 1/4 has nothing to do: there are 3 runs" in logs[0]
    # The others stopped on the way, and went on.
    for log in logs[1:]:
        assert "stopped after a chunk (time limit reached)" in log, log
    assert "wrote" in (scratch / "merge.log").read_text()
    assert rows(scratch / "results") == alone(*TWO_CHUNKS)
    # Compiled once, for all tasks.
    assert [*(scratch / "xla").iterdir()]


def test_the_script_of_the_page_survives_preemption(scratch: Path) -> None:
    text = block("sweep.sh").replace("--array=1-4", "--array=1-1")
    text = text.replace("--stop-after 3h", " ".join(LONG))
    (scratch / "sweep.sh").write_text(text)
    low = said("sbatch", "--parsable", "sweep.sh").strip()
    wait(lambda: in_mid_run(scratch / "results"))
    urgent = said(
        *("sbatch", "--parsable", "--partition=urgent", "--exclusive", "--wrap=sleep 3")
    ).strip()
    wait(lambda: over(urgent))
    until_over(low)
    log = (scratch / "sweep-1.log").read_text()
    assert "stopped after a chunk (SIGTERM); the same command continues" in log, log
    assert rows(scratch / "results") == alone(*LONG)


def test_tasks_of_the_page_compute_together(scratch: Path) -> None:
    text = block("together.sh").replace("--stop-after 3h", "--stop-after 1h")
    (scratch / "together.sh").write_text(text)
    job = said("sbatch", "--parsable", "together.sh").strip()
    wait(lambda: over(job), 200)
    log = (scratch / "together.log").read_text()
    assert log.count("table.csv") == 1, log
    assert [row["seed"] for row in rows(scratch / "together")] == ["0", "1", "2"]


def test_submitit_as_the_page_has_it(scratch: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    (scratch / "launch.py").write_text(block("launch.py"))
    done = said(sys.executable, "launch.py")
    assert done.splitlines()[-1] == str([0] * 8)
    assert rows(scratch / "results") == alone()
