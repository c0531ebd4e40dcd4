"""Compiles one program for one target, and reports the result.

    python -m experiments.benchmarks.accelerators_cells.compiling TARGET PROGRAM

prints one line of JSON. `accelerators` starts it as a process, so that a compiler that
ends its process loses only one row.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from typing import Any

import jax
from jax._src.lib import _jax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks.accelerators_cells import makers, programs, targets
from ppml_lab import target
from ppml_lab.lab.setup import lab_mesh

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-permute",
)
_HOST = re.compile(r"custom_call_target=\"(\w*(?:callback|host)\w*)\"", re.I)


def compiled(where: targets.Target, make: makers.Make) -> dict[str, Any]:
    """Compiles a program for a target and reports memory, work and contents."""
    with target.made_for(where.devices):
        begin = time.perf_counter()
        made = make()
        everywhere = NamedSharding(lab_mesh(None), PartitionSpec())
        arguments = jax.tree.map(
            lambda leaf: leaf if leaf.sharding else leaf.update(sharding=everywhere),
            made.arguments,
        )
        traced = jax.jit(made.run, donate_argnums=made.donated).trace(*arguments)
        lowered = traced.lower()
        there = time.perf_counter()
        found = lowered.compile(compiler_options={**where.options})
        end = time.perf_counter()
        text = found.as_text() or ""
        return {
            "trace_seconds": there - begin,
            "compile_seconds": end - there,
            **memory(found),
            **work(found),
            **read(text),
        }


def memory(found: Any) -> dict[str, int]:
    """Bytes on a device, by XLA's buffer assignment."""
    stats = found.memory_analysis()
    return {
        "argument_bytes": stats.argument_size_in_bytes,
        "output_bytes": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temp_bytes": stats.temp_size_in_bytes,
    }


def work(found: Any) -> dict[str, float]:
    """XLA's own count of a device's work, with every loop's body counted once."""
    # A GPU's compiler counts nothing itself; the analysis is the same for all
    # platforms.
    cpu = jax.devices("cpu")[0].client
    (module,) = found.runtime_executable().hlo_modules()
    counted = found.cost_analysis() or _jax.hlo_module_cost_analysis(cpu, module)
    return {
        "flops": counted.get("flops", 0.0),
        "bytes_moved": counted.get("bytes accessed", 0.0),
    }


def read(text: str) -> dict[str, Any]:
    """Facts read from the compiled program's text."""
    kinds: Counter[str] = Counter()
    for kind in COLLECTIVES:
        kinds[kind] = len(re.findall(rf" {kind}(?:-start)?\(", text))
    return {
        "collectives": sum(kinds.values()),
        "which": ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n),
        "float64": len(re.findall(r"= \(?f64\[", text)),
        "integers64": len(re.findall(r"= \(?[su]64\[", text)),
        "host_calls": len(_HOST.findall(text)),
    }


def main() -> None:
    where, name = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    there = targets.target_of(where)
    # Data are split over the same number of devices here.
    jax.config.update("jax_num_cpu_devices", len(there.devices))
    print(json.dumps(compiled(there, programs.prepared(name))))


if __name__ == "__main__":
    main()
