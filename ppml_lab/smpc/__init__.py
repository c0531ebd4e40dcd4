"""Emulated secure multi-party computation: shares, rings, secure aggregation, costs.

Arithmetic and byte counts are exact. There is no network and no adversary, and
randomness comes from `ppml_lab.random`, which is not cryptographic.

Two packages build on the files of this folder and do not import each other:
`aggregation`, secure aggregation of what clients send, and `computing`, programs that
run on shares.
"""

from ppml_lab.smpc import (
    aggregation,
    bits,
    computing,
    field,
    network,
    products,
    ring,
    shamir,
    sharing,
    transcript,
)
from ppml_lab.smpc.aggregation import (
    cost,
    dropouts,
    graphs,
    lightsecagg,
    mask_keys,
    masked_sums,
    masking,
    operations,
    secure_aggregation,
    sum_encoding,
    sums,
)
from ppml_lab.smpc.aggregation.masked_sums import light_secagg, pairwise_masking
from ppml_lab.smpc.aggregation.secure_aggregation import additive_sharing, clear
from ppml_lab.smpc.aggregation.sums import summing
from ppml_lab.smpc.computing import (
    approximations,
    arithmetic,
    authenticated,
    carries,
    comparison,
    interpreter,
    normalise,
    private,
    private_choices,
    private_costs,
    private_forms,
    private_functions,
    private_inputs,
    private_moves,
    private_ranges,
    private_values,
    private_windows,
    public_factors,
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

__all__ = [
    "FixedPoint",
    "additive_sharing",
    "aggregation",
    "approximations",
    "arithmetic",
    "authenticated",
    "bits",
    "bits_needed",
    "carries",
    "clear",
    "comparison",
    "computing",
    "cost",
    "dropouts",
    "field",
    "fixed_point",
    "graphs",
    "headroom",
    "interpreter",
    "largest_scale",
    "light_secagg",
    "lightsecagg",
    "mask_keys",
    "masked_sums",
    "masking",
    "network",
    "normalise",
    "operations",
    "pairwise_masking",
    "power_of_two",
    "private",
    "private_choices",
    "private_costs",
    "private_forms",
    "private_functions",
    "private_inputs",
    "private_moves",
    "private_ranges",
    "private_values",
    "private_windows",
    "products",
    "public_factors",
    "ring",
    "secure_aggregation",
    "shamir",
    "sharing",
    "sum_encoding",
    "summing",
    "sums",
    "transcript",
    "truncation",
]
