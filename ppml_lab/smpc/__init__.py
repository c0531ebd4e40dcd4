"""Emulated secure multi-party computation: shares, rings, secure sums and their cost.

Exact arithmetic and exact byte counts; no network, no adversary, and randomness from
`ppml_lab.random`, which is not cryptographic.
"""

from ppml_lab.smpc import (
    cost,
    field,
    graphs,
    mask_keys,
    masking,
    ring,
    shamir,
    sharing,
    transcript,
)
from ppml_lab.smpc.fixed_point import (
    FixedPoint,
    bits_needed,
    fixed_point,
    headroom,
    largest_scale,
)
from ppml_lab.smpc.secure_aggregation import additive_sharing, clear, pairwise_masking

__all__ = [
    "FixedPoint",
    "additive_sharing",
    "bits_needed",
    "clear",
    "cost",
    "field",
    "fixed_point",
    "graphs",
    "headroom",
    "largest_scale",
    "mask_keys",
    "masking",
    "pairwise_masking",
    "ring",
    "shamir",
    "sharing",
    "transcript",
]
