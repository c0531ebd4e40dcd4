"""Arrays on disk, by the names of their places in a tree, written in one step."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ppml_lab.lab.disk.records import DamagedError


def named(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves that hold values, by their key paths: orbax refuses empty arrays."""
    leaves = jax.tree.leaves_with_path(tree)
    found = {jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves}
    return {name: array for name, array in found.items() if array.size}


def save(
    path: Path, arrays: Mapping[str, np.ndarray], ledger: Mapping[str, Any]
) -> None:
    """Writes arrays to a new folder, and beside them what JSON can say.

    Raises:
      OSError: If it cannot be written; there is no such folder then.
    """
    import orbax.checkpoint as ocp

    parts = ocp.args.Composite(
        states=ocp.args.PyTreeSave({**arrays}), ledger=ocp.args.JsonSave({**ledger})
    )
    try:
        _checkpointer().save(path, args=parts)
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        number = int(code[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def load(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays that were saved under these names, which are all.

    Raises:
      DamagedError: If they cannot be read.
    """
    import orbax.checkpoint as ocp

    # As NumPy arrays, whatever devices there were.
    kinds = dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray))
    parts = ocp.args.Composite(states=ocp.args.PyTreeRestore(restore_args=kinds))
    try:
        arrays = _checkpointer().restore(path, args=parts)["states"]
    except Exception as error:
        # Whatever a file's damage makes of it: orbax and tensorstore have many.
        raise DamagedError(f"its arrays cannot be read ({error})") from error
    missing = sorted({*names} - {*arrays})
    if missing:
        raise DamagedError(f"it has no array {missing[0]}")
    return arrays


@functools.lru_cache(maxsize=1)
def _checkpointer() -> Any:
    # Imported late, because it takes half a second.
    import orbax.checkpoint as ocp

    # One process of several saves; orbax would wait for the others.
    alone = ocp.options.MultiprocessingOptions(
        active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
    )
    return ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
            states=ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
            ledger=ocp.JsonCheckpointHandler(
                filename="ledger.json", multiprocessing_options=alone
            ),
        ),
        multiprocessing_options=alone,
    )
