"""Times some of the 200 runs of a sweep, from the start of the process on.

The grid is 10 noise levels by 4 clip norms by 5 seeds of
private federated averaging on digits.
"""

# ruff: noqa: E402  (imports are timed)
from __future__ import annotations

import time

BEGIN = time.perf_counter()

import importlib.metadata
import tempfile
from pathlib import Path

import jax

from experiments.benchmarks import bench
from ppml_lab import federated, lab
from ppml_lab.lab import parts

NOISES = (0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6)
GRID = lab.product(
    lab.axis("mechanism.noise_multiplier", NOISES),
    lab.axis("mechanism.clip_norm", (0.1, 0.3, 1.0, 3.0)),
    lab.seeds(5),
)


def main() -> None:
    options = bench.arguments({}, first=0, count=1, devices=0)
    federated.use_all_cores()
    compiled = []

    def listen(event: str, duration_secs: float, **rest: int | str) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(rest.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    setup = parts.Federated(
        partition=parts.Iid(100),
        sampler=parts.Poisson(20),
        mechanism=parts.Gaussian(),
        schedule=lab.Schedule(num_rounds=50, eval_every=10, evals_per_chunk=5),
        layout=lab.Layout(num_devices=options.devices or None),
    )
    assert len(GRID) == 200, len(GRID)
    # Runs started one by one are built one by one.
    mine = GRID[options.first : options.first + options.count]
    chosen = lab.points(mine, setup, delta=1e-2)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = lab.run_sweep(chosen, Path(folder))
    bench.report(
        "ppml_lab",
        importlib.metadata.version("ppml_lab"),
        runs=len(outcomes),
        seconds=time.perf_counter() - BEGIN,
        compile_seconds=outcomes[0].last["compile_seconds"],
        chunk_programs=sum("run_chunks" in name for name in compiled),
        programs=len(compiled),
    )


if __name__ == "__main__":
    main()
