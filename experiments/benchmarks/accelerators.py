"""Which of the lab's programs compile for accelerators that are not here, and to what?

Claim: all combinations of algorithm, mechanism and secure sum that go together, DP-SGD
by ghost norms, inference and training on shares, the trainings of audits and slices of
sweeps compile for an H200 and for four TPU v5e chips, with no host in the middle and
without float64 on the TPU.

XLA compiles whole programs ahead of time for a chip's description: nothing is run. A
program's memory on the chip is that of XLA's buffer assignment. Operations and bytes
moved are XLA's count of the compiled program, which counts a loop's body once however
often it runs: they describe a step, not the cost of a run. Seconds are this machine's.

The compilers are the extra `aot`. It needs an environment of its own, as jax looks for
the devices of installed wheels.

    pip install -e '.[aot]'
    python -m experiments.benchmarks.accelerators h200
    python -m experiments.benchmarks.accelerators v5e

Each program is compiled in a process of its own, and its row is saved at once: started
again, the command goes on after the saved rows. `smoke` takes three programs for both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks import bench
from experiments.benchmarks.accelerators_cells import programs, targets
from ppml_lab.lab import chips
from ppml_lab.lab.disk import records
from ppml_lab.lab.disk.provenance import made_by

WORKER = "experiments.benchmarks.accelerators_cells.compiling"


@dataclass(frozen=True)
class Experiment:
    """The programs to compile, and the targets."""

    targets: tuple[str, ...] = ("h200", "v5e:2x2")
    """Chips: "h200", the path of a GPU's description, or a TPU topology."""
    programs: tuple[str, ...] = ()
    """Names of programs; all if empty."""
    timeout: float = 900.0
    """Seconds after which a compilation is given up."""


CONFIGS = {
    "smoke": Experiment(
        programs=(
            "FedAvg, Gaussian, AdditiveSharing",
            "normal numbers",
            "product over F_(2^31-1)",
        ),
    ),
    "h200": Experiment(targets=("h200",)),
    "v5e": Experiment(targets=("v5e:2x2",)),
}
PAGE = {
    "minutes": {"h200": 45, "v5e": 60},
    "tables": [
        {
            "title": "what the programs take",
            "where": {},
            "by": ["target", "kind", "program"],
            "of": [
                "compiles", "compile_seconds", "argument_mib", "temp_mib",
                "share_of_memory", "mflops", "moved_mib", "collectives", "float64",
                "integers64", "host_calls",
            ],
        }
    ],
}  # fmt: skip

EXPLORED = "It compiles programs for chips: no accuracy to compare."


def measure(folder: Path, config: Experiment) -> list[dict[str, Any]]:
    try:
        about = {name: described(name) for name in config.targets}
    except ValueError as error:
        sys.exit(f"error: {error}")
    kinds = programs.names()
    if unknown := sorted(set(config.programs) - set(kinds)):
        sys.exit(f"error: programs {unknown} must be among: {'; '.join(kinds)}")
    rows, code = [], made_by()["code"]
    for name in config.programs or kinds:
        for target in config.targets:
            found = records.once(
                folder / "programs",
                {"program": name, "target": target, "code": code, **about[target]},
                lambda target=target, name=name: _compiled(target, name, config),
            )
            said = {"target": target, "kind": kinds[name], "program": name}
            rows.append(said | about[target] | _columns(target, found))
            print(f"{target}: {name}: {_shown(found)}", flush=True)
    return rows


def described(target: str) -> dict[str, Any]:
    """A target's device and compilers; raises ValueError if there is none."""
    found = targets.target_of(target)
    wheel = "libtpu" if found.devices[0].platform == "tpu" else "jax-cuda13-plugin"
    return {
        "device": found.devices[0].device_kind,
        "devices": len(found.devices),
        "jax": metadata.version("jax"),
        "compiler": f"{wheel} {metadata.version(wheel)}",
    }


def _compiled(target: str, name: str, config: Experiment) -> dict[str, Any]:
    """The report of the compiling process; its last output if it fails."""
    command = [sys.executable, "-m", WORKER, target, name]
    try:
        done = subprocess.run(
            command,
            cwd=bench.ROOT,
            capture_output=True,
            text=True,
            timeout=config.timeout,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not compiled after {config.timeout:g} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    words = done.stderr.strip().splitlines() or ["no output"]
    return {"error": f"status {done.returncode}: {words[-1][:300]}"}


def _columns(target: str, found: dict[str, Any]) -> dict[str, Any]:
    error = found.get("error")
    if error:
        return {"compiles": False, "error": error}
    held = sum(found[f"{part}_bytes"] for part in ("argument", "output", "temp"))
    chip = chips.of_kind(described(target)["device"])
    return {
        "compiles": True,
        "error": "",
        **found,
        "argument_mib": found["argument_bytes"] / 2**20,
        "temp_mib": found["temp_bytes"] / 2**20,
        "share_of_memory": held / chip.memory_bytes if chip else None,
        "mflops": found["flops"] / 1e6,
        "moved_mib": found["bytes_moved"] / 2**20,
    }


def _shown(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"not compiled: {found['error']}"
    return (
        f"{found['compile_seconds']:.0f} s, temporaries of "
        f"{found['temp_bytes'] / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    # The wheels' devices are not here: jax must not look for them.
    jax.config.update("jax_platforms", "cpu")
    bench.run("accelerators", __doc__ or "", CONFIGS, measure)
