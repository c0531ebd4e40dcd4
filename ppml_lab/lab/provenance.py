"""Where results came from: what ran, on which versions and devices, at what cost."""

from __future__ import annotations

import functools
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from ppml_lab.lab import records

FORMAT = 2
"""Of results folders; 1 had a checkpoint.npz in each run folder."""

_PACKAGES = ("ppml_lab", "jax", "jaxlib", "optax", "flax", "dp-accounting", "numpy")
_FLAGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_default_matmul_precision",
    "jax_num_cpu_devices",
)


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration (with its seed), command, commit, versions, devices and flags, to
    stand beside results.
    """
    return {
        "format": FORMAT,
        "config": records.described(config),
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


def cost(compile_seconds: float | None, run_seconds: float) -> dict[str, Any]:
    """What something took, and the most memory that was used until now.

    Args:
      compile_seconds: None if they were not told apart.
      run_seconds: The others.

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
    """What finished runs took together; a program that many ran in counts once.

    Returns:
      Sums of seconds and the largest memory; None where runs from before do not say.
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
    """The most memory that this process held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage has the peak of the process that started this one, if larger.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@functools.lru_cache(maxsize=1)
def _commit() -> dict[str, Any]:
    """Asked once, so that all runs of a process say the same."""
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
