"""The laboratory: setups, sweeps, records and progress."""

from ppml_lab.lab import parts, plots
from ppml_lab.lab.budget import calibrated, statement
from ppml_lab.lab.columns import columns
from ppml_lab.lab.composition import cost_together
from ppml_lab.lab.disk.records import DamagedError
from ppml_lab.lab.engine import MadeElsewhereError, run_sweep
from ppml_lab.lab.loading import LabData, facts_of, load_data
from ppml_lab.lab.memory import TooLargeError
from ppml_lab.lab.outcomes import Outcomes
from ppml_lab.lab.program import seconds_in_turns
from ppml_lab.lab.results import Outcome, Point, Result
from ppml_lab.lab.run import run_benchmark, run_experiment
from ppml_lab.lab.setup import Facts, Layout, Schedule, Setup
from ppml_lab.lab.stopping import StoppedError
from ppml_lab.lab.sweep import (
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
from ppml_lab.lab.tree.fields import File, SameBits, Traced
from ppml_lab.lab.tree.part import part

__all__ = [
    "DamagedError",
    "Facts",
    "File",
    "LabData",
    "Layout",
    "MadeElsewhereError",
    "Outcome",
    "Outcomes",
    "Point",
    "Result",
    "SameBits",
    "Schedule",
    "Setting",
    "Setup",
    "StoppedError",
    "Sweep",
    "TooLargeError",
    "Traced",
    "axis",
    "calibrated",
    "chain",
    "columns",
    "cost_together",
    "facts_of",
    "hidden",
    "load_data",
    "log_uniform",
    "part",
    "parts",
    "plots",
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
