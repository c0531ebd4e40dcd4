"""What fits the memory, and what happens if it did not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from ppml_lab.lab import queue


def test_sizes_shrink_until_they_fit_and_are_multiples() -> None:
    def needed(size: int) -> int:
        tried.append(size)
        return 50 + 10 * size

    for count, largest, multiple, free, size in [
        (8, 8, 1, 130, 8),
        (8, 8, 1, 129, 4),
        # 20 do not fit; neither do 8 of 100 bytes, of which 50 are for none of them.
        (20, 20, 4, 100, 4),
        (7, 7, 2, 0, 2),
    ]:
        tried: list[int] = []
        assert queue.fitting_size(count, largest, multiple, needed, free) == size
        assert len(tried) == len(set(tried))
        assert all(size % multiple == 0 for size in tried)


def test_a_program_needs_its_new_arrays() -> None:
    x, data = jnp.zeros(1000), jnp.zeros(5000)
    compiled = jax.jit(lambda x, data: x + data[:1000]).lower(x, data).compile()
    assert 8000 <= queue.bytes_needed(compiled, data) < 9000
    kept = jax.jit(lambda x, data: x + data[:1000], donate_argnums=0)
    assert 4000 <= queue.bytes_needed(kept.lower(x, data).compile(), data) < 5000


def test_what_runs_out_of_memory_is_halved_and_tried_again() -> None:
    left, done, said = [*range(10)], [], []

    def take(size: int) -> list[int] | None:
        part, left[:] = left[:size], left[size:]
        return part or None

    def run(part: list[int]) -> None:
        if len(part) > 2:
            left[:0] = part
            # More bytes than any machine has: XLA's own error.
            jnp.zeros(2**48).block_until_ready()
        done.extend(part)

    queue.run_what_fits(take, run, 8, 1, said.append)
    assert done == [*range(10)]
    assert said == [
        f"{size} runs at once take too much memory: {size // 2} from now on"
        for size in (8, 4)
    ]
    left[:] = [*range(10)]
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        queue.run_what_fits(take, run, 8, 4, said.append)
