"""Prints the machine's best rate of float32 matrix products, by numpy and by jax.

Its arguments are ignored.
"""

import json

import jax
import numpy as np
import work


def main() -> None:
    rng = np.random.default_rng(0)
    times = jax.jit(lambda a: a @ a)
    rates = []
    for size in (1024, 2048):
        a = rng.standard_normal((size, size), np.float32)
        b = jax.block_until_ready(times(a))
        for product in (lambda a=a: a @ a, lambda b=b: times(b).block_until_ready()):
            rates.append(work.best_matmul_rate({size: product}, repeats=10))
    print(json.dumps({"system": "machine", "matmul_flops": max(rates)}))


if __name__ == "__main__":
    main()
