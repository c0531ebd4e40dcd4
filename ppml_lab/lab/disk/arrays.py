"""Arrays on disk, named by their key paths in a tree and written in one step."""

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
    """Returns the leaves by their key paths, without empty ones, which orbax
    refuses.
    """
    leaves = jax.tree.leaves_with_path(tree)
    found = {jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves}
    return {name: array for name, array in found.items() if array.size}


def save(
    path: Path, arrays: Mapping[str, np.ndarray], ledger: Mapping[str, Any]
) -> None:
    """Writes arrays and a JSON ledger to a new folder.

    Raises:
      OSError: If the folder cannot be written; then it does not exist.
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
    """Returns the arrays that were saved under these names; they must be all arrays of
    the folder.

    Raises:
      DamagedError: If the arrays cannot be read.
    """
    import orbax.checkpoint as ocp

    # NumPy arrays do not depend on the devices that saved them.
    kinds = dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray))
    parts = ocp.args.Composite(states=ocp.args.PyTreeRestore(restore_args=kinds))
    try:
        arrays = _checkpointer().restore(path, args=parts)["states"]
    except Exception as error:
        # Damaged files raise many kinds of errors in orbax and tensorstore.
        raise DamagedError(f"its arrays cannot be read ({error})") from error
    missing = sorted({*names} - {*arrays})
    if missing:
        raise DamagedError(f"it has no array {missing[0]}")
    return arrays


@functools.lru_cache(maxsize=1)
def _checkpointer() -> Any:
    # Imported here because the import takes half a second.
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
