"""Differential privacy: clipping, mechanisms, DP-SGD gradients.

Accounting is in `ppml_lab.dp.accounting`, imported on its own because dp-accounting
takes a second to load.
"""

from ppml_lab.dp.adaptive import adaptive_gaussian
from ppml_lab.dp.additive import additive
from ppml_lab.dp.clipping import RULES as CLIPPING_RULES
from ppml_lab.dp.clipping import clip_by_global_norm
from ppml_lab.dp.correlated import correlated_gaussian
from ppml_lab.dp.gradients import (
    ClippedGradient,
    ClippedTotal,
    SummedGradient,
    clipped_gradient,
    clipped_total,
    example_keys,
    per_example_method,
    summed_gradient,
)
from ppml_lab.dp.live import live
from ppml_lab.dp.local import local_gaussian, local_laplace, randomised_response
from ppml_lab.dp.mechanisms import gaussian, no_privacy
from ppml_lab.dp.per_example import PerExample
from ppml_lab.dp.scheduled import scheduled_gaussian

__all__ = [
    "CLIPPING_RULES",
    "ClippedGradient",
    "ClippedTotal",
    "PerExample",
    "SummedGradient",
    "adaptive_gaussian",
    "additive",
    "clip_by_global_norm",
    "clipped_gradient",
    "clipped_total",
    "correlated_gaussian",
    "example_keys",
    "gaussian",
    "live",
    "local_gaussian",
    "local_laplace",
    "no_privacy",
    "per_example_method",
    "randomised_response",
    "scheduled_gaussian",
    "summed_gradient",
]
