"""Differential privacy: clipping, mechanisms, DP-SGD gradients.

Accounting is in `ppml_lab.dp.accounting`, imported on its own because dp-accounting
takes a second to load.
"""

from ppml_lab.dp.clipping import clip_by_global_norm
from ppml_lab.dp.gradients import SummedGradient, clipped_gradient, summed_gradient
from ppml_lab.dp.mechanisms import gaussian, local_gaussian, no_privacy

__all__ = [
    "SummedGradient",
    "clip_by_global_norm",
    "clipped_gradient",
    "gaussian",
    "local_gaussian",
    "no_privacy",
    "summed_gradient",
]
