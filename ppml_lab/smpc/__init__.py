"""Emulated secure multi-party computation: shares, rings, secure sums and their cost.

Exact arithmetic and exact byte counts; no network, no adversary, and randomness from
`ppml_lab.random`, which is not cryptographic.
"""

from ppml_lab.smpc import (
    approximations,
    arithmetic,
    bits,
    comparison,
    cost,
    dropouts,
    field,
    graphs,
    lightsecagg,
    mask_keys,
    masking,
    network,
    operations,
    private,
    products,
    ring,
    shamir,
    sharing,
    transcript,
    truncation,
)
from ppml_lab.smpc.fixed_point import (
    FixedPoint,
    bits_needed,
    fixed_point,
    headroom,
    largest_scale,
    power_of_two,
)
from ppml_lab.smpc.masked_sums import light_secagg, pairwise_masking
from ppml_lab.smpc.secure_aggregation import additive_sharing, clear
from ppml_lab.smpc.sums import summing

__all__ = [
    "FixedPoint",
    "additive_sharing",
    "approximations",
    "arithmetic",
    "bits",
    "bits_needed",
    "clear",
    "comparison",
    "cost",
    "dropouts",
    "field",
    "fixed_point",
    "graphs",
    "headroom",
    "largest_scale",
    "light_secagg",
    "lightsecagg",
    "mask_keys",
    "masking",
    "network",
    "operations",
    "pairwise_masking",
    "power_of_two",
    "private",
    "products",
    "ring",
    "shamir",
    "sharing",
    "summing",
    "transcript",
    "truncation",
]
