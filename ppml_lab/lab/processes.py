"""Several processes: some are joined and compute together, others share a folder.

*Joined* processes (`jax.distributed`, on one host or many) all run the same command and
act as one machine; the first alone reads and writes the results folder.

Processes that are *not* joined may write to the same folder: a claim says which process
makes a run. A claim is a lock on one byte of `<folder>/.claims`, at a place given by
the run's id. The system drops a process's locks when the process ends, however it ends,
so that no claim is left behind. A folder on a network needs a file system with POSIX
locks. The tasks of a job array take *shards*: each task runs its part of a sweep by
itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from ppml_lab.lab.program import Group, group_of
from ppml_lab.lab.results import Point
from ppml_lab.lab.stopping import StoppedError

HEARTBEAT_SECONDS = 30
"""Seconds without a heartbeat after which a process is lost, and all others end."""


def connect() -> None:
    """Joins the processes that the environment names; does nothing for one process.

    Call it before jax computes anything. The environment names processes by
    JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, by a SLURM step of several tasks, or by several
    TPU_WORKER_HOSTNAMES of a TPU pod. With PPML_LAB_HOSTS=auto, jax finds the
    processes, as on a Cloud TPU VM.

    Raises:
      ValueError: For variables that are no whole numbers, or do not fit each other.
    """
    environment = os.environ
    if jax.distributed.is_initialized():
        return
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    several = (
        environment.get("PPML_LAB_HOSTS") == "auto"
        or tasks != "1"
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    )
    if address is None and not several:
        return
    # This service would keep SIGTERM from ending the process.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        _number("JAX_NUM_PROCESSES"),
        _number("JAX_PROCESS_ID"),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def is_first() -> bool:
    """Returns whether this is the process that reads and writes files and prints."""
    return jax.process_index() == 0


def agreed(value: Any) -> Any:
    """Returns the first process's value at all processes; JSON must be able to hold
    it.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = text if is_first() else np.zeros(length, np.uint8)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))


def first_said(text: str) -> str:
    """Returns, at all joined processes, the first text that is not empty."""
    if jax.process_count() == 1:
        return text
    mine = np.zeros(64, np.uint8)
    said = text.encode()[:64]
    mine[: len(said)] = np.frombuffer(said, np.uint8)
    for row in multihost_utils.process_allgather(mine):
        if row.any():
            return bytes(row[row > 0]).decode(errors="replace")
    return ""


def check_alike(told: Mapping[str, str]) -> None:
    """Raises ValueError at all joined processes unless their `told` is the same; says
    what differs and where.
    """
    words = np.stack(
        [
            np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint32)
            for text in told.values()
        ]
    )
    everybody = np.asarray(multihost_utils.process_allgather(words))
    for place, name in enumerate(told):
        differ = (everybody[:, place] != everybody[0, place]).any(axis=1)
        if differ.any():
            raise ValueError(
                f"process {int(np.argmax(differ))} has other {name} than the first; "
                "start the same command, on the same data and code, everywhere"
            )


def from_first(tree: PyTree) -> PyTree:
    """Broadcasts the first process's arrays; the others pass arrays of the same shapes.

    Returns NumPy arrays.
    """
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(
        np.asarray, multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree))
    )


def to_host(tree: PyTree) -> PyTree:
    """Returns whole NumPy arrays of sharded arrays; all processes must call it."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process at once if the block fails while there are other processes.

    The other processes would wait for this one; instead they fail, too, and say so.
    """
    try:
        yield
    except BaseException as error:
        # A stop is the same at all processes.
        if jax.process_count() == 1 or isinstance(error, StoppedError):
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} ends: "
            f"{error}\nIf this is not its own failure, another process ended or is out "
            "of reach. Start the command again, everywhere: finished runs are kept, "
            "and unfinished runs continue from their last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        # A normal exit would wait for the others.
        os._exit(1)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise ValueError(f"{name} must be a whole number, got '{text}'")
    return int(text)


class Claims:
    """The claims of a process in one results folder.

    A process may open a folder's claims only once at a time: when it closes them, the
    system drops all its locks on the file.
    """

    def __init__(self, descriptor: int) -> None:
        """Takes an open file, whose locks are the claims."""
        self._descriptor = descriptor

    def take(self, name: str) -> bool:
        """Claims a run or slice by its id of hexadecimal digits.

        Returns False if another process has it.
        """
        try:
            self._lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, names: Iterable[str]) -> None:
        """Gives claims back."""
        for name in names:
            self._lock(name, fcntl.LOCK_UN)

    def _lock(self, name: str, what: int) -> None:
        # 60 bits, because places in files are signed 64-bit numbers.
        fcntl.lockf(self._descriptor, what, 1, int(name[:15], 16))


@contextmanager
def open_claims(folder: Path) -> Iterator[Claims]:
    """Opens the claims of this process in a folder; drops them at the end of the
    block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".claims", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield Claims(descriptor)
    finally:
        os.close(descriptor)


class Shard(NamedTuple):
    """Part `index` of `count`, counted from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        """Returns the text that `parse_shard` reads."""
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Returns the shard that a text "i/n" names.

    Raises:
      ValueError: For another text, or an index that is not from 1 to n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise ValueError(f"shard '{text}' is not of the form i/n, such as 1/8")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.index <= shard.count:
        raise ValueError(
            f"shard {shard} does not exist; there are {shard.count} shards, counted "
            "from 1"
        )
    return shard


def from_environment(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """Returns the shard of this task of a SLURM job array; None outside of one.

    Raises:
      ValueError: If the array's tasks are no range.
    """
    names = ("ID", "COUNT", "MIN", "STEP")
    found = {name: environment.get(f"SLURM_ARRAY_TASK_{name}") for name in names}
    if found["ID"] is None or found["COUNT"] is None:
        return None
    task, count = int(found["ID"]), int(found["COUNT"])
    steps, rest = divmod(task - int(found["MIN"] or 0), int(found["STEP"] or 1))
    if rest or not 0 <= steps < count:
        raise ValueError(
            f"task {task} of this SLURM array has no place in a range of {count} from "
            f"{found['MIN']} in steps of {found['STEP']}; pass --shard i/n"
        )
    return Shard(steps + 1, count)


def take(points: Sequence[Point], shard: Shard) -> list[Point]:
    """Returns the points of a shard.

    Shards differ by at most one point in size. Points are ordered by group, because
    points of a group share a program.
    """
    groups: dict[Group, list[Point]] = {}
    for point in points:
        groups.setdefault(group_of(point), []).append(point)
    ordered = [point for group in groups.values() for point in group]
    begin, end = (
        len(ordered) * part // shard.count for part in (shard.index - 1, shard.index)
    )
    return ordered[begin:end]
