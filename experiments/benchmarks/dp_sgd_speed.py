"""What does a step of DP-SGD cost, beside one without privacy, and beside peers?

Claim to check: with ghost norms a private step takes at most 1.5 times as long as our
step without privacy, plus the time to draw the noise (`ratio_less_noise` at most 1.5;
the figure's dashed line), and less than the private steps of Opacus and jax-privacy.

The work (`dp_sgd_speed_workers/work.py`) is batches of 256 images of 28x28, clip norm
1, noise multiplier 1.1, SGD, on the CPU. The models are an MLP (784-200-200-10), the
CNN of the MNIST tutorials of TensorFlow Privacy and Opacus (26,010 parameters), and
McMahan's CNN. Steps that can be computed in microbatches are timed with each size of a
grid, and so is our step without privacy; ratios are to its fastest row. A private
worker first checks its sum of clipped gradients against one example after the other.

Peers have their own environments: PPML_LAB_OPACUS_PYTHON names an interpreter with
opacus 1.6.0 and torch 2.13.0, PPML_LAB_JAX_PRIVACY_PYTHON one with jax-privacy 2.0.0,
jax 0.10.2, flax, optax and jaxtyping, where it trains the lab's models; a peer without
a named interpreter is left out. Every row is a process, one at a time, in turns, and
ratios are taken within a turn; leave the machine idle otherwise. `paper` has all models
except McMahan's CNN, which is `cnn`; `smoke` takes two minutes without peers.

    python -m experiments.benchmarks.dp_sgd_speed smoke
    python -m experiments.benchmarks.dp_sgd_speed paper
    python -m experiments.benchmarks.dp_sgd_speed cnn
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import bench


@dataclass(frozen=True)
class Experiment:
    """The timed work; environment variables decide which peers take part."""

    models: tuple[str, ...] = ("mlp", "mnist_cnn")
    """Models: "mlp", "mnist_cnn", "cnn"."""
    microbatches: tuple[int, ...] = (256, 32)
    """Examples that go through the model at once; divisors of the batch, 256."""
    repetitions: int = 1
    """Turns in which all systems run once."""
    blocks: int = 3
    """Timed blocks of steps in a process; their median counts."""
    block_milliseconds: int = 100
    """Approximate length of a block."""
    timeout: float = 900.0
    """Seconds after which a system is stopped."""


PAPER = Experiment(
    microbatches=(256, 64, 32, 16),
    repetitions=3,
    blocks=7,
    block_milliseconds=700,
    timeout=300.0,
)
CONFIGS = {
    "smoke": Experiment(),
    "paper": PAPER,
    "cnn": replace(PAPER, models=("cnn",)),
}
PAGE = {
    "minutes": {"paper": 40, "cnn": 30},
    "tables": [
        {
            "by": ["model", "system", "method", "microbatch"],
            "of": {
                "milliseconds_per_step": ["low", "high"],
                "cpu_milliseconds_per_step": [],
                "ratio_to_no_privacy": [],
                "ratio_less_noise": [],
                "peak_mib": [],
            },
        },
    ],
}

EXPLORED = "It times libraries: no accuracy to compare."
IN_PARTS = {
    "ppml_lab": ("no_privacy", "ghost", "vmap"),
    "jax_privacy": ("clipped_grad",),
}
"""Methods timed with every microbatch size, by system."""
WHOLE = {
    "ppml_lab": ("noise",),
    "jax_privacy": ("no_privacy",),
    "opacus": ("no_privacy", "hooks", "functorch", "ghost", "ew"),
}
"""Methods timed only with the whole batch, by system."""
LABELS = ("system", "version", "model", "method", "microbatch")
TIME, CPU_TIME = "milliseconds_per_step", "cpu_milliseconds_per_step"


def plan(config: Experiment) -> list[bench.Task]:
    """The tasks of a turn, in order."""
    about = {"blocks": config.blocks, "block_milliseconds": config.block_milliseconds}
    return [
        bench.Task(system, (model, method), about | {"microbatch": size})
        for model, system in itertools.product(config.models, WHOLE)
        for methods, sizes in ((IN_PARTS, config.microbatches), (WHOLE, (256,)))
        for method, size in itertools.product(methods.get(system, ()), sizes)
        if bench.is_here(system)
    ]


def measure(folder: Path, config: Experiment) -> list[dict[str, Any]]:
    """Times all systems in turns; a row of medians per method and microbatch size."""
    tasks = plan(config)
    scripts = Path(__file__).with_name("dp_sgd_speed_workers")
    workers = bench.Workers(scripts, folder, config.timeout, headlines=(TIME,))
    found = bench.in_turns(workers, tasks, config.repetitions)
    done = [pair for pair in zip(tasks, found, strict=True) if any(pair[1])]

    def ours(*words: str) -> np.ndarray:
        """The times by turn of our fastest row of this model and method."""
        times = [
            bench.by_turn(reports, TIME)
            for task, reports in done
            if task.system == "ppml_lab" and task.words == words
        ]
        return min(times, key=np.nanmedian, default=np.full(config.repetitions, np.nan))

    rows = []
    for task, reports in done:
        model, method = task.words
        times, plain = bench.by_turn(reports, TIME), ours(model, "no_privacy")
        adds_noise = task.system == "ppml_lab" and method in ("ghost", "vmap")
        without_noise = bench.median((times - ours(model, "noise")) / plain)
        first = next(report for report in reports if report)
        rows.append(
            {name: first[name] for name in LABELS}
            | bench.over_turns(reports, TIME, CPU_TIME, "peak_mib")
            | {
                "ratio_to_no_privacy": bench.median(times / plain),
                "ratio_less_noise": without_noise if adds_noise else None,
            }
        )
    return rows


if __name__ == "__main__":
    bench.run("dp_sgd_speed", __doc__ or "", CONFIGS, measure)
