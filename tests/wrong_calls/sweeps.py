"""Good calls of lab."""

from pathlib import Path

from ppml_lab import lab
from ppml_lab.lab import fields

from . import parts
from .values import SEED, good

ZERO_FIELDS = ("data.size_sigma", "data.synthetic_beta", "data.data_seed", "seed")
ZERO_FIELDS += ("stop_at_accuracy", "target_quantile", "corrupt_share", "dropout_share")
ZERO_FIELDS += ("noise_multiplier", "proximal_mu", "dropout_prob", "scale_bits")
SWEPT = {
    "data.dataset": ("'1'", "''"),
    "data.partition": ("'1'", "''"),
    "clip_norm": ("inf",),
    "target_epsilon": ("inf",),
    "scale_bits": ("0", "-1"),
} | {name: ("0",) for name in ZERO_FIELDS if name != "scale_bits"}
"""What fields of sweeps may be, beside `NUMBER` for floats, and None where that is one
of their types; names of data are those that `load_data` knows."""


def swept(name, value):
    """What a sweep of one field is built to."""
    (setting,) = lab.axis(name, [value])
    config = lab.Config(privacy="central", secure_sum="additive_sharing")
    rates = lab.Hyperparams(noise_multiplier=1.0)
    return lab.build(*fields.applied(setting.fields, config, rates), parts.FACTS)


LAB = {
    "axis": good(
        lab.axis,
        {"values": ("[1]", "two floats", "2-d")},
        name="batch_size",
        values=[1, 2],
    ),
    "seeds": good(lab.seeds, count=2),
    "uniform": good(
        lab.uniform,
        SEED | {"low": ("0",)},
        name="learning_rate",
        low=0.1,
        high=1.0,
        count=2,
        seed=0,
    ),
    "log_uniform": good(
        lab.log_uniform,
        SEED,
        name="learning_rate",
        low=0.1,
        high=1.0,
        count=2,
        seed=0,
    ),
    "variants": good(
        lab.variants,
        {"column": ("'1'",)},
        column="method",
        choices={"plain": {"privacy": "none"}},
    ),
    "hidden": good(lab.hidden, {"sweep": ("()",)}, sweep=parts.SEEDS),
    "points": good(
        lab.points,
        {},
        False,
        sweep=parts.SEEDS,
        config=parts.CONFIG,
        hyperparams=parts.HYPERPARAMS,
        delta=1e-3,
    ),
    "build": good(
        lab.build,
        config=parts.CONFIG,
        hyperparams=parts.HYPERPARAMS,
        facts=parts.FACTS,
    ),
    "make_task": good(lab.make_task, config=parts.CONFIG, facts=parts.FACTS),
    "calibrated": good(
        lab.calibrated,
        {"target_epsilon": ("inf",)},
        False,
        config=parts.CONFIG,
        hyperparams=parts.HYPERPARAMS,
        facts=parts.FACTS,
        target_epsilon=1.0,
        delta=1e-3,
    ),
    "statement": good(
        lab.statement,
        config=parts.CONFIG,
        hyperparams=parts.HYPERPARAMS,
        facts=parts.FACTS,
        delta=1e-3,
    ),
    "cost_together": good(
        lab.cost_together, {"points": ("()",)}, False, points=[parts.POINT]
    ),
    "load_data": good(
        lab.load_data,
        {},
        False,
        config=parts.CONFIG.data,
        num_devices=1,
        shard_data=False,
    ),
    "run_benchmark": good(
        lab.run_benchmark,
        {"stem": ("'1'",), "description": ("''", "'1'")},
        False,
        stem="stem",
        description="words",
        configs={"smoke": parts.CONFIG},
        measure=lambda config: [],
    ),
    "run_experiment": good(
        lab.run_experiment,
        {"stem": ("'1'",), "description": ("''", "'1'")},
        False,
        stem="stem",
        description="words",
        configs={"smoke": parts.CONFIG},
        points=lambda config: [],
        table=lambda config, results: [],
        on_metrics=lambda run, round, scalars: None,
    ),
    "run_sweep": good(
        lab.run_sweep,
        {
            "checkpoint_seconds": ("0", "inf"),
            "points": ("()",),
            "folder": ("'1'",),
        },
        False,
        points=[parts.POINT],
        folder=Path("nowhere"),
        report=lambda done, text: None,
        on_metrics=lambda run, round, scalars: None,
        width=1,
        slice_size=1,
        memory_bytes=2**30,
        checkpoint_seconds=5.0,
    ),
    "seconds_in_turns": good(
        lab.seconds_in_turns,
        {"points": ("()",)},
        False,
        points=[parts.POINT],
        turns=2,
    ),
}
