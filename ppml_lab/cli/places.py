"""The report of `doctor` on data sets, caches and the results folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ppml_lab.cli.machine import Finding
from ppml_lab.cli.tables import RESULTS

_OF_PACKAGES = {"rossi": "lifelines"}
"""Data sets that come with optional packages."""
_LITTLE_SPACE = 500 * 2**20


def data_sets() -> Finding:
    """Returns for every data set where it is, or how to get it; downloads nothing."""
    from ppml_lab.data import datasets

    rows = [_data_set(name) for name in datasets.names()]
    given = os.environ.get("PPML_LAB_DATA")
    warnings = []
    if given and not Path(given).expanduser().is_dir():
        warnings.append(
            f"PPML_LAB_DATA is {given}, which is not a folder; correct or unset "
            "PPML_LAB_DATA"
        )
    elif given and not any(
        (Path(given).expanduser() / row["name"]).is_dir() for row in rows
    ):
        named = ", ".join(row["name"] for row in rows if row["folder"] is not None)
        warnings.append(
            f"PPML_LAB_DATA is {given}, which holds no data set; make folders in it "
            f"with these names: {named}"
        )
    return Finding({"data": rows}, [], warnings)


def folders() -> Finding:
    """Returns the folders that the lab writes: size, free space, and whether it can
    write.
    """
    from ppml_lab.data import datasets, files
    from ppml_lab.lab.run import compiled_programs

    # The cache of downloads holds compiled programs, too.
    own = [files.cache() / name for name in datasets.names()]
    rows = {
        "results": _folder(RESULTS, [RESULTS]),
        "downloads": _folder(files.cache(), own),
        "compiled programs": _folder(compiled_programs(), [compiled_programs()]),
    }
    results, downloads, compiled = rows.values()
    problems, warnings = [], []
    if not results["writable"]:
        problems.append(
            f"{results['folder']} cannot be written; run experiments in another "
            "folder, or with --out"
        )
    elif results["free_bytes"] < _LITTLE_SPACE:
        left = results["free_bytes"] // 2**20
        warnings.append(f"{results['folder']} has only {left} MiB of space left")
    if not downloads["writable"]:
        warnings.append(
            f"{downloads['folder']} cannot be written, so that nothing can be "
            "downloaded; set XDG_CACHE_HOME to a writable folder"
        )
    if not compiled["writable"]:
        warnings.append(
            f"{compiled['folder']} cannot be written, so that programs are compiled "
            "again in every process; set JAX_COMPILATION_CACHE_DIR to a writable folder"
        )
    found = [{"for": name, **row} for name, row in rows.items()]
    return Finding({"folders": found}, problems, warnings)


def _data_set(name: str) -> dict[str, Any]:
    from ppml_lab.data import datasets, files

    needed, optional, instead = datasets.sources(name)
    absent, unknown = files.missing(name, needed), files.missing(name, optional)
    if absent and instead and not files.missing(name, instead):
        needed, absent = instead, []
    state, folder, advice = "built in", None, None
    if absent:
        state, folder = "missing", files.folders(name)[0]
        advice = f"downloaded at first use; offline, put its {len(absent)} files there"
        if not all(needed[file].sha256 for file in absent):
            advice = f"never downloaded; put its {len(absent)} files there"
            advice += f", or {' and '.join(instead)}" if instead else ""
    elif name in _OF_PACKAGES and not importlib.util.find_spec(_OF_PACKAGES[name]):
        state, advice = "missing", f"install {_OF_PACKAGES[name]}, which brings it"
    elif needed:
        found = files.find(name, [*needed], sources={})[0]
        folder = next(one for one in files.folders(name) if one in found.parents)
        state = "found"
        advice = (
            "its users are unknown, as optional files are missing" if unknown else None
        )
        try:
            files.find(name, [*needed], sources=needed)
        except ValueError as error:
            state, advice = "other files", str(error)
    return {
        "name": name,
        "state": state,
        "folder": None if folder is None else str(folder),
        "missing_files": absent + unknown,
        "advice": advice,
    }


def _folder(path: Path, counted: list[Path]) -> dict[str, Any]:
    """Returns facts about a folder, which need not exist, and the size of `counted`."""
    path = path.absolute()
    nearest = next(place for place in (path, *path.parents) if place.exists())
    files = (file for part in counted for file in part.rglob("*") if file.is_file())
    return {
        "folder": str(path),
        "bytes": sum(file.stat().st_size for file in files),
        "free_bytes": shutil.disk_usage(nearest).free,
        "writable": _writable(nearest),
    }


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
