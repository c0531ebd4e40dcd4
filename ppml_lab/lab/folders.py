"""Results folders: whose they are, whether they can be written and have room."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppml_lab import arguments
from ppml_lab.lab import records
from ppml_lab.lab.provenance import FORMAT, provenance

SPARE_BYTES = 16 * 2**20
"""Room that a sweep wants beside its checkpoints."""


@arguments.checked
def named(out: str | Path) -> Path:
    """The results folder that a text names.

    Raises:
      ValueError: If it names none: an empty text would be the current folder.
    """
    return Path(out)


@arguments.checked
def check_writable(folder: str | Path) -> None:
    """Raises OSError, naming the folder, unless it can be made or written."""
    folder = Path(folder)
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error


@arguments.checked
def open_folder(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Makes a results folder for `config`, or checks that an existing one is its own,
    as far as the options go that there were when it was made and are still there.

    Raises:
      ValueError: If the folder holds another configuration, and what differs; or if a
        later version wrote it.
      OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    path = folder / "provenance.json"
    try:
        if path.exists():
            _check(folder, records.read_json(path), config)
        folder.mkdir(parents=True, exist_ok=True)
        records.write_json(path, provenance(config))
    except OSError as error:
        raise type(error)(
            error.errno, f"{error.strerror}: no results can be written to", str(folder)
        ) from error


@arguments.checked
def check_room(folder: str | Path, num_bytes: int) -> None:
    """Checks that a disk has room for what will be written.

    Raises:
      OSError: If not; says how much is missing.
    """
    free, wanted = shutil.disk_usage(folder).free, num_bytes + SPARE_BYTES
    if free < wanted:
        raise OSError(
            f"the disk of {folder} has {free / 2**20:.0f} MiB free, and the sweep may "
            f"write {wanted / 2**20:.0f} MiB; make room, give another folder, or run "
            "fewer points at once"
        )


def _check(folder: Path, stamp: Any, config: Mapping[str, Any]) -> None:
    version = stamp.get("format", 1) if isinstance(stamp, dict) else None
    if not isinstance(version, int) or not isinstance(stamp.get("config"), dict):
        raise ValueError(
            f"{folder / 'provenance.json'} is damaged: it names no format and no "
            "configuration; delete it, or give another folder"
        )
    if version > FORMAT:
        raise ValueError(
            f"{folder} has the results format {version}, which a later version of this "
            f"library wrote; this one knows {FORMAT}: update it or give another folder"
        )
    if version < FORMAT:
        if any(folder.glob("runs/*")):
            raise ValueError(
                f"{folder} has runs of results format {version}, from before setups, "
                "whose names and keys were others; give another folder, or delete it"
            )
        return  # a table alone, which is made again
    differing = _differences(
        records.described(stamp["config"]), records.described(config)
    )
    if differing:
        raise ValueError(
            f"{folder} holds results of another configuration "
            f"({'; '.join(differing[:5])}); give another folder or delete this one"
        )


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        # Options that came or went after the folder was made are not held against it:
        # a run's name depends on all options, so that none is taken for another.
        parts = [
            _differences(value, here[key], f"{name}.{key}".strip("."))
            for key, value in sorted(there.items())
            if key in here
        ]
        return [line for part in parts for line in part]
    return [] if there == here else [f"{name}: {there} there, {here} here"]
