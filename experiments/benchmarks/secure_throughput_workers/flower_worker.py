"""The worker of Flower 1.42.0: the functions by which SecAgg+ clients mask and share.

`masks`: `pseudo_rand_gen` for each neighbor (numpy's MT19937 seeded with 32 bits, words
mod 2^32 in int64), `parameters_addition`, and one reduction of the sum.

`shamir`: `create_shares` and `combine_shares` of 32-byte seeds, not of field elements.
Seeds are padded to 48 bytes, three secrets in GF(2^128), and computed in Python.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np

# pyrefly: ignore[missing-import]
from flwr.common.secure_aggregation import ndarrays_arithmetic, secaggplus_utils

# pyrefly: ignore[missing-import]
from flwr.common.secure_aggregation.crypto import shamir

from experiments.benchmarks.secure_throughput_workers import work

MODULUS = 2**32


def main() -> None:
    options = work.arguments(["masks", "shamir"], shamir=1)
    about = {"system": "Flower", "version": importlib.metadata.version("flwr")}
    rng = np.random.default_rng(options.seed)
    seeds = [rng.bytes(32) for _ in range(options.timed)]

    def masked(vector: list[np.ndarray]) -> list[np.ndarray]:
        for seed in seeds:
            shapes = ndarrays_arithmetic.get_parameters_shape(vector)
            mask = secaggplus_utils.pseudo_rand_gen(seed, MODULUS, shapes)
            vector = ndarrays_arithmetic.parameters_addition(vector, mask)
        return ndarrays_arithmetic.parameters_mod(vector, MODULUS)

    def share(secrets: list[bytes]) -> list[list[bytes]]:
        return [
            shamir.create_shares(secret, options.threshold, options.shares)
            for secret in secrets
        ]

    def reconstruct(shares: list[list[bytes]]) -> list[bytes]:
        return [shamir.combine_shares(some[: options.threshold]) for some in shares]

    if options.task == "masks":
        vector = [work.words(options, options.words).astype(np.int64)]
        phases: dict[str, Any] = {"mask": masked}
        (total,) = work.report(options, vector, phases, **about, generator="MT19937")
        assert 0 <= total.min() <= total.max() < MODULUS
    else:
        phases = {"share": share, "reconstruct": reconstruct}
        about["secret"] = "32 bytes, as 3 elements of GF(2^128)"
        assert work.report(options, seeds, phases, **about) == seeds


if __name__ == "__main__":
    main()
