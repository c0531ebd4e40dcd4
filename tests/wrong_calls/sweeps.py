"""Good calls of lab."""

from pathlib import Path

from ppml_lab import lab
from ppml_lab.lab.tree import paths

from . import parts
from .values import SEED, good

HELD = (
    *(lab.parts.Federated(mechanism=lab.parts.AdaptiveGaussian(1.0, 0.3)), parts.SETUP),
    lab.parts.Federated(
        partition=lab.parts.Dirichlet(10, 5.0),
        model=lab.parts.Mlp((8,)),
        trainer=lab.parts.FedProx(lab.parts.Sgd(0.1, 0.5, 0.1)),
        server=lab.parts.Adagrad(),
        sampler=lab.parts.FixedSize(5, 1.0),
        mechanism=lab.parts.RandomisedResponse(),
        metrics=(lab.parts.F1(),),
    ),
    lab.parts.Federated(
        trainer=lab.parts.LocalDpSgd(noise_multiplier=1.0),
        secure_sum=lab.parts.PairwiseMasking(max_abs=1.0, mode="identity"),
    ),
    lab.parts.Federated(
        mechanism=lab.parts.LocalLaplace(),
        secure_sum=lab.parts.AdditiveSharing(max_abs=1.0),
    ),
    lab.parts.Federated(
        trainer=lab.parts.SignFlipping(lab.parts.TopK()), rule=lab.parts.TrimmedMean()
    ),
    lab.parts.Federated(
        model=lab.parts.BatchNormMlp((8,)), kept=("bias",), held_out=0.2
    ),
    lab.parts.Federated(
        trainer=lab.parts.ExampleGradients(),
        sampler=lab.parts.Everyone(),
        mechanism=lab.parts.Gaussian(1.0, 1.0),
    ),
    lab.parts.Central(mechanism=lab.parts.Gaussian(1.0, 1.0)),
    lab.parts.Federated(
        sampler=lab.parts.MinSeparation(10, 10),
        mechanism=lab.parts.CorrelatedGaussian(1.0, 1.0),
    ),
    lab.parts.Federated(
        sampler=lab.parts.Everyone(), mechanism=lab.parts.BandedGaussian(1.0, 1.0)
    ),
)
"""Setups whose fields are set to hostile values."""

FIELDS = {path: setup for setup in HELD for path in paths.every(setup)}
"""Every field of theirs, and a setup that has it."""


def swept(path, value):
    """What a sweep of one field is built to."""
    (point,) = lab.points(lab.variants("field", {"wrong": {path: value}}), FIELDS[path])
    lab.statement(point.setup, 1e-4)


LAB = {
    "axis": good(
        lab.axis,
        {
            "values": ("[1]", "two floats", "2-d"),
            "name": ("'1'",),
            "column": ("''", "'1'"),
        },
        name="trainer.batch_size",
        values=[1, 2],
        column="batch",
    ),
    "seeds": good(lab.seeds, count=2),
    "uniform": good(
        lab.uniform,
        SEED | {"low": ("0",), "name": ("'1'",), "column": ("''", "'1'")},
        name="server.learning_rate",
        low=0.1,
        high=1.0,
        count=2,
        seed=0,
        column="rate",
    ),
    "log_uniform": good(
        lab.log_uniform,
        SEED | {"name": ("'1'",), "column": ("''", "'1'")},
        name="server.learning_rate",
        low=0.1,
        high=1.0,
        count=2,
        seed=0,
        column="rate",
    ),
    "variants": good(
        lab.variants,
        {"column": ("'1'",), "choices": ("{}",)},
        column="method",
        choices={"plain": {"dropout_prob": 0.5}},
    ),
    "hidden": good(lab.hidden, {"sweep": ("()",)}, sweep=parts.SEEDS),
    "points": good(
        lab.points,
        {},
        False,
        sweep=parts.SEEDS,
        setup=parts.SETUP,
        delta=1e-3,
    ),
    "calibrated": good(
        lab.calibrated,
        {"target_epsilon": ("inf",)},
        False,
        setup=parts.SETUP,
        target_epsilon=1.0,
        delta=1e-3,
    ),
    "statement": good(
        lab.statement,
        setup=parts.SETUP,
        delta=1e-3,
    ),
    "columns": good(
        lab.columns,
        result=lab.Result(
            parts.POINT, {}, lab.Outcome({"accuracy": 0.5}, Path("nowhere"))
        ),
    ),
    "cost_together": good(
        lab.cost_together, {"points": ("()",)}, False, points=[parts.POINT]
    ),
    "load_data": good(lab.load_data, setup=parts.SETUP),
    "facts_of": good(lab.facts_of, setup=parts.SETUP),
    "run_benchmark": good(
        lab.run_benchmark,
        {"stem": ("'1'",), "description": ("''", "'1'")},
        False,
        stem="stem",
        description="words",
        configs={"smoke": parts.SETUP},
        measure=lambda config: [],
    ),
    "run_experiment": good(
        lab.run_experiment,
        {"stem": ("'1'",), "description": ("''", "'1'")},
        False,
        stem="stem",
        description="words",
        configs={"smoke": parts.SETUP},
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
        stop=lambda: "",
        on_metrics=lambda run, round, scalars: None,
        width=1,
        slice_size=1,
        memory_bytes=2**30,
        checkpoint_seconds=5.0,
        again=False,
        go_on=False,
        keep="last",
    ),
    "plots.plot": good(
        lab.plots.plot,
        {"by": ("()",), "where": ("{}",)},
        table=[{"rate": 0.1, "loss": 1.0, "seed": 0}],
        x="rate",
        y="loss",
        by=(),
        where={},
        x_scale="auto",
        y_scale="linear",
    ),
    "seconds_in_turns": good(
        lab.seconds_in_turns,
        {"points": ("()",)},
        False,
        points=[parts.POINT],
        turns=2,
    ),
}
