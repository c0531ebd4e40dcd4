"""Emulated secure multi-party computation: shares, rings, secure sums and their cost.

Exact arithmetic and exact byte counts; no network, no adversary, and randomness from
`jax.random`, which is not cryptographic.
"""

from ppml_lab.smpc.fixed_point import FixedPoint, bits_needed, fixed_point
from ppml_lab.smpc.secure_aggregation import additive_sharing, clear
from ppml_lab.smpc.sharing import reconstruct, share

__all__ = [
    "FixedPoint",
    "additive_sharing",
    "bits_needed",
    "clear",
    "fixed_point",
    "reconstruct",
    "share",
]
