"""The report of `doctor` on the software, and on the devices that jax finds."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

_LEAST = re.compile(r"([\w.-]+)>=([\d.]+)")
_UNUSUAL = {
    "jax_enable_x64": "the lab is tested with 32-bit types, and results will differ",
    "jax_disable_jit": "nothing is compiled, so that everything is slow",
}


class Finding(NamedTuple):
    """A part of the report: facts by name, problems that keep the lab from running, and
    warnings.
    """

    facts: dict[str, Any]
    problems: list[str]
    warnings: list[str]


def packages() -> Finding:
    """Returns the versions of Python and of the packages that the lab needs."""
    try:
        wanted = metadata.requires("ppml_lab") or []
        python = metadata.metadata("ppml_lab")["Requires-Python"]
    except metadata.PackageNotFoundError:
        warning = (
            "ppml_lab is not installed, so that the versions of its dependencies are "
            "not checked; run pip install -e . in its repository"
        )
        return Finding({"python": platform.python_version()}, [], [warning])
    # Extras, which have a condition behind a semicolon, are not needed.
    return versions([f"python{python}", *(name for name in wanted if ";" not in name)])


def versions(requirements: Sequence[str]) -> Finding:
    """Returns installed versions (None if not installed), checked against requirements
    "name>=version".
    """
    facts: dict[str, str | None] = {}
    problems = []
    for requirement in requirements:
        match = _LEAST.fullmatch(requirement)
        if match is None:
            continue
        name, least = match.groups()
        facts[name] = found = _installed(name)
        if found is None:
            problems.append(f"{name} is not installed: pip install '{requirement}'")
        elif _numbers(found) < _numbers(least):
            problems.append(
                f"{name} must be at least {least}, got {found}: pip install -U {name}"
            )
    return Finding(facts, problems, [])


def devices() -> Finding:
    """Returns the devices that jax computes on in experiments."""
    flags = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(("JAX_", "XLA_"))
    }
    try:
        import jax

        from ppml_lab.federated import devices as cores

        cores.use_all_cores()
        found = jax.devices()
    # A platform that is asked for and missing fails in several ways, asserts included.
    except Exception as error:
        reason = str(error) or type(error).__name__
        fix = "unset JAX_PLATFORMS" if "JAX_PLATFORMS" in flags else "reinstall jax"
        problem = f"jax finds no device ({reason}): {fix}"
        return Finding({"flags": flags}, [problem], [])
    facts = {
        "backend": jax.default_backend(),
        "kind": found[0].device_kind,
        "count": len(found),
        "memory_bytes": (found[0].memory_stats() or {}).get("bytes_limit"),
        "cpu_cores": cores.num_cores(),
        "host_memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "flags": flags,
    }
    warnings = [
        f"{name} is on: {what}"
        for name, what in _UNUSUAL.items()
        if getattr(jax.config, name)
    ]
    if facts["backend"] == "cpu":
        warnings += idle_gpus(Path("/dev"))
    return Finding(facts, [], warnings)


def idle_gpus(folder: Path) -> list[str]:
    """Returns why jax does not use the NVIDIA devices in `folder`; empty if there are
    none.
    """
    gpus = sorted(path.name for path in folder.glob("nvidia[0-9]*"))
    if not gpus:
        return []
    if os.environ.get("JAX_PLATFORMS"):
        reason = f"JAX_PLATFORMS is {os.environ['JAX_PLATFORMS']}; unset it"
    elif _installed("jax-cuda13-plugin") or _installed("jax-cuda12-plugin"):
        reason = "jax cannot reach it: see nvidia-smi for the driver and its version"
    else:
        reason = "jax has no CUDA: pip install 'ppml_lab[cuda]'"
    return [f"a GPU is here ({', '.join(gpus)}) but not used; {reason}"]


def _installed(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    """Returns the numbers of a release, so that lists compare as versions: 2.0.0 equals
    2.
    """
    release = re.match(r"[\d.]*", version)
    numbers = [int(part) for part in re.findall(r"\d+", release[0] if release else "")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
