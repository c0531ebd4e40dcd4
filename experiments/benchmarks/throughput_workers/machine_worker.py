"""Prints the machine's best rate of float32 matrix products, by numpy and by jax."""

import jax
import numpy as np

from experiments.benchmarks import bench


def main() -> None:
    bench.arguments({})
    rng = np.random.default_rng(0)
    times = jax.jit(lambda a: a @ a)
    rates = []
    for size in (1024, 2048):
        a = rng.standard_normal((size, size), np.float32)
        b = jax.block_until_ready(times(a))
        for product in (lambda a=a: a @ a, lambda b=b: times(b).block_until_ready()):
            meter = bench.Meter()
            meter.start()
            for _ in range(10):
                product()
                meter.lap()
            rates += [2 * size**3 / lap.seconds for lap in meter.laps]
    bench.report("machine", f"numpy {np.__version__}", matmul_flops=max(rates))


if __name__ == "__main__":
    main()
