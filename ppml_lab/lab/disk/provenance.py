"""Provenance of results (what ran, on which code, versions and devices, at what cost),
and checks of results folders.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from ppml_lab import arguments, checks
from ppml_lab.lab.disk import records

FORMAT = 3
"""Format of results folders; formats 1 and 2 are older than setups."""

_PACKAGES = ("ppml_lab", "jax", "jaxlib", "optax", "flax", "dp-accounting", "numpy")
_FLAGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_default_matmul_precision",
    "jax_num_cpu_devices",
)


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the provenance of results: configuration (with its seed), command,
    commit, versions, devices and flags.
    """
    return {
        "format": FORMAT,
        "config": records.described(config),
        "made_by": made_by(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        **_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "backend": jax.default_backend(),
        "cpu_count": os.cpu_count(),
        "flags": {
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            **{name: jax.config.values[name] for name in _FLAGS},
        },
    }


def made_by() -> dict[str, str]:
    """Returns what decides this process's numbers, beside setup, seed and data: `code`
    (a digest of the package and of every loaded module outside the standard library and
    the installed packages), `jax` and `device`.
    """
    # Some modules are loaded late, such as those that write checkpoints.
    return dict(_made_by(len(sys.modules)))


@functools.lru_cache(maxsize=2)
def _made_by(num_modules: int) -> Mapping[str, str]:
    return {
        "code": _code(tuple(sorted(_own_files()))),
        "jax": metadata.version("jax"),
        "device": jax.devices()[0].device_kind,
    }


def _own_files() -> set[str]:
    """Returns the files of the package and of the user's modules."""
    package = Path(__file__).parents[2]
    found = {str(path) for path in package.rglob("*.py")}
    installed = tuple(
        {os.path.realpath(place) + os.sep for place in sysconfig.get_paths().values()}
    )
    for module in [*sys.modules.values()]:
        file = getattr(module, "__file__", None) or ""
        if file.endswith(".py") and not file.startswith(installed):
            path = os.path.realpath(file)
            if not path.startswith(installed) and os.path.exists(path):
                found.add(path)
    return found


@functools.lru_cache(maxsize=4)
def _code(files: tuple[str, ...]) -> str:
    found = hashlib.sha256()
    for content in sorted(Path(file).read_bytes() for file in files):
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()[:16]


def of_runs(folders: Iterable[Path]) -> dict[str, list[Any]]:
    """Returns where the runs of a table were made: every commit and whether it had
    changes, and every device, jax and code, each once.
    """
    stamps = [records.read_json(folder / "provenance.json") for folder in folders]
    commits = {(s.get("git_commit"), bool(s.get("git_dirty"))) for s in stamps}
    made = [stamp.get("made_by", {}) for stamp in stamps]
    named = {
        f"{name}s": sorted({str(one.get(name)) for one in made})
        for name in ("code", "jax", "device")
    }
    return {
        "commits": [
            {"git_commit": commit, "git_dirty": dirty}
            for commit, dirty in sorted(commits, key=str)
        ],
        **named,
    }


def cost(compile_seconds: float | None, run_seconds: float) -> dict[str, Any]:
    """Returns the time that a computation took, and the peak memory until now.

    Args:
      compile_seconds: Seconds of compilation; None if they were not told apart.
      run_seconds: All other seconds.

    Returns:
      `compile_seconds`, `run_seconds`, `peak_memory_bytes`, and `peak_memory_of`:
      "device" (the fullest one), or "process" where devices do not say.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [row["peak_bytes_in_use"] for row in stats if "peak_bytes_in_use" in row]
    return {
        "compile_seconds": compile_seconds,
        "run_seconds": run_seconds,
        "peak_memory_bytes": max(peaks) if peaks else _peak_resident(),
        "peak_memory_of": "device" if peaks else "process",
    }


def total_cost(run_folders: Iterable[Path]) -> dict[str, Any]:
    """Returns the total cost of finished runs; a program that several runs shared
    counts once.

    Returns:
      Sums of seconds and the largest memory; None where older runs do not record them.
    """
    stamps = [records.read_json(folder / "provenance.json") for folder in run_folders]
    costs = [stamp["cost"] for stamp in stamps if "cost" in stamp]
    if len(costs) < len(stamps) or not costs:
        return dict.fromkeys(cost(0.0, 0.0))
    largest = max(costs, key=lambda row: row["peak_memory_bytes"])
    return largest | {
        # The same program took the same time, to the last digit.
        "compile_seconds": sum({row["compile_seconds"] for row in costs}),
        "run_seconds": sum(row["run_seconds"] for row in costs),
    }


def _peak_resident() -> int:
    """Returns the peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage gives the parent process's peak, if that is larger.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@functools.lru_cache(maxsize=1)
def _commit() -> dict[str, Any]:
    """Returns the commit; cached, so that all runs of a process say the same."""
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": bool(changes)}


@functools.lru_cache(maxsize=len(_PACKAGES))
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


SPARE_BYTES = 16 * 2**20
"""Free bytes that a sweep needs beside its checkpoints."""


@arguments.checked
def named(out: str | Path) -> Path:
    """Returns the results folder that a text names.

    Raises:
      ValueError: For an empty text, which would be the current folder.
    """
    return Path(out)


@arguments.checked
def check_writable(folder: str | Path) -> None:
    """Raises OSError, naming the folder, unless the folder can be made or written."""
    folder = Path(folder)
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error


@arguments.checked
def check_own(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError as `open_folder` does, but writes nothing."""
    path = Path(folder, "provenance.json")
    if path.exists():
        _check(Path(folder), records.read_json(path), config)


@arguments.checked
def open_folder(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Makes a results folder for `config`, or checks that an existing one belongs to
    `config`; options added or removed since are ignored.

    Raises:
      ValueError: If the folder holds another configuration (says what differs), or a
        later version wrote it.
      OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    try:
        check_own(folder, config)
        folder.mkdir(parents=True, exist_ok=True)
        records.write_json(folder / "provenance.json", provenance(config))
    except OSError as error:
        raise type(error)(
            error.errno, f"{error.strerror}: no results can be written to", str(folder)
        ) from error


@arguments.checked
def check_room(folder: str | Path, num_bytes: int) -> None:
    """Checks that a disk has room for `num_bytes` more bytes.

    Raises:
      OSError: If there is too little room; says how much is free and needed.
    """
    free, wanted = shutil.disk_usage(folder).free, num_bytes + SPARE_BYTES
    if free < wanted:
        raise OSError(
            f"the disk of {folder} has {free / 2**20:.0f} MiB free, but the sweep may "
            f"write {wanted / 2**20:.0f} MiB; make room, give another folder, or run "
            "fewer points at once"
        )


def _check(folder: Path, stamp: Any, config: Mapping[str, Any]) -> None:
    version = stamp.get("format", 1) if isinstance(stamp, dict) else None
    if not isinstance(version, int) or not isinstance(stamp.get("config"), dict):
        raise ValueError(
            f"{folder / 'provenance.json'} is damaged: it lacks its format or its "
            "configuration; delete it, or give another folder"
        )
    if version > FORMAT:
        raise ValueError(
            f"{folder} has results format {version}, written by a later version of "
            f"this library, but this version knows {FORMAT}; update the library or "
            "give another folder"
        )
    if version < FORMAT:
        if any(folder.glob("runs/*")):
            raise ValueError(
                f"{folder} has runs of results format {version}, whose names and keys "
                "this version does not use; give another folder, or delete this one"
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
        # Options added or removed after the folder was made are ignored: a run's name
        # depends on all options, so that no run is taken for another.
        parts = [
            _differences(value, here[key], f"{name}.{key}".strip("."))
            for key, value in sorted(there.items())
            if key in here
        ]
        return [line for part in parts for line in part]
    if there == here:
        return []
    shown = [checks.cut(str(one), 60) for one in (there, here)]
    return [f"{name}: {shown[0]} there, {shown[1]} here"]
