"""Differential privacy: clipping, mechanisms, DP-SGD gradients.

Accounting is in `ppml_lab.dp.accounting`, imported on its own because dp-accounting
takes a second to load.
"""

from ppml_lab.dp.adaptive import adaptive_gaussian
from ppml_lab.dp.clipping import clip_by_global_norm
from ppml_lab.dp.gradients import (
    ClippedGradient,
    SummedGradient,
    clipped_gradient,
    summed_gradient,
)
from ppml_lab.dp.mechanisms import gaussian, local_gaussian, no_privacy
from ppml_lab.dp.per_example import PerExample

__all__ = [
    "ClippedGradient",
    "PerExample",
    "SummedGradient",
    "adaptive_gaussian",
    "clip_by_global_norm",
    "clipped_gradient",
    "gaussian",
    "local_gaussian",
    "no_privacy",
    "summed_gradient",
]
