"""Several processes, on one host or many, as one machine: jax.distributed.

All of them run the same command. They compute together, and the first one alone reads
and writes the results folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

HEARTBEAT_SECONDS = 30
"""A process that is not heard of for so long is lost, and all others end."""


def connect() -> None:
    """Joins the processes that the environment names; nothing happens if there is one.

    To be called before jax computes anything. The environment names them by
    JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, or it is a SLURM step of several tasks, or a TPU pod whose
    TPU_WORKER_HOSTNAMES lists several. PPML_LAB_HOSTS=auto leaves it to jax to find
    out, as on a Cloud TPU VM.

    Raises:
      ValueError: For numbers that are none, or do not fit each other.
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
    # It would keep SIGTERM from ending the process.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        _number("JAX_NUM_PROCESSES"),
        _number("JAX_PROCESS_ID"),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def is_first() -> bool:
    """Whether this process reads and writes files and speaks to the user."""
    return jax.process_index() == 0


def agreed(value: Any) -> Any:
    """The first process's value, at all of them; anything that JSON can say."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = text if is_first() else np.zeros(length, np.uint8)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))


def check_alike(told: Mapping[str, str]) -> None:
    """Raises ValueError, at all of the joined processes, unless all tell the same; says
    what differs and where.
    """
    if jax.process_count() == 1:
        return
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
    """The first process's arrays, at all of them, which give some of the same shapes;
    NumPy arrays.
    """
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(
        np.asarray, multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree))
    )


def to_host(tree: PyTree) -> PyTree:
    """Whole NumPy arrays of arrays that lie anywhere; all processes have to call it."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process at once if something fails inside while there are others.

    These would wait for it; so they fail, too, and say so, instead.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} ends: "
            f"{error}\nIf this is not its own failure, another process ended or is out "
            "of reach. Start the command again, everywhere: finished runs are kept, "
            "and the others go on from their last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        # Leaving in order would wait for the others.
        os._exit(1)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise ValueError(f"{name} must be a whole number, got '{text}'")
    return int(text)
