"""The laboratory: configurations, sweeps, records and progress."""

from ppml_lab.lab.axes import (
    Setting,
    Sweep,
    axis,
    chain,
    hidden,
    log_uniform,
    points,
    product,
    seeds,
    uniform,
    variants,
    zipped,
)
from ppml_lab.lab.benchmark import run_benchmark
from ppml_lab.lab.budget import calibrated, statement
from ppml_lab.lab.composition import cost_together
from ppml_lab.lab.config import Config, DataConfig, Hyperparams
from ppml_lab.lab.experiment import build, make_task
from ppml_lab.lab.loading import DataFacts, LabData, load_data
from ppml_lab.lab.point import Outcome, Point
from ppml_lab.lab.run import Result, run_experiment
from ppml_lab.lab.sweep import MadeElsewhereError, run_sweep
from ppml_lab.lab.timing import seconds_in_turns

__all__ = [
    "Config",
    "DataConfig",
    "DataFacts",
    "Hyperparams",
    "LabData",
    "MadeElsewhereError",
    "Outcome",
    "Point",
    "Result",
    "Setting",
    "Sweep",
    "axis",
    "build",
    "calibrated",
    "chain",
    "cost_together",
    "hidden",
    "load_data",
    "log_uniform",
    "make_task",
    "points",
    "product",
    "run_benchmark",
    "run_experiment",
    "run_sweep",
    "seconds_in_turns",
    "seeds",
    "statement",
    "uniform",
    "variants",
    "zipped",
]
