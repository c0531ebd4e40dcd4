"""What fits the memory, and what happens if it did not."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from ppml_lab import lab
from ppml_lab.lab import memory, queue


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
        assert memory.fitting_size(count, largest, multiple, needed, free) == size
        assert len(tried) == len(set(tried))
        assert all(size % multiple == 0 for size in tried)


def test_a_program_needs_its_new_arrays() -> None:
    x, data = jnp.zeros(1000), jnp.zeros(5000)
    compiled = jax.jit(lambda x, data: x + data[:1000]).lower(x, data).compile()
    assert 8000 <= memory.needed_by(compiled, data).total < 9000
    kept = jax.jit(lambda x, data: x + data[:1000], donate_argnums=0)
    needed = memory.needed_by(kept.lower(x, data).compile(), data)
    assert 4000 <= needed.total < 5000


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
        f"{size} runs at once take too much memory; {size // 2} from now on"
        for size in (8, 4)
    ]
    left[:] = [*range(10)]
    taken = "3 MiB of temporaries"
    words = r"ran out with 4 runs at once, .*: 3 MiB of temporaries\. Train "
    with pytest.raises(lab.TooLargeError, match=words) as caught:
        queue.run_what_fits(take, run, 8, 4, said.append, lambda: taken)
    assert "RESOURCE_EXHAUSTED" in str(caught.value.__cause__)


def test_a_size_whose_bytes_nobody_knows_is_halved() -> None:
    def needed(size: int) -> float:
        return math.inf if size > 10 else size

    assert memory.fitting_size(64, 64, 1, needed, 5) == 5
    assert memory.fitting_size(64, 64, 1, needed, 100) == 8


def test_the_largest_arrays_are_named_with_what_makes_them() -> None:
    def step(x: jax.Array) -> jax.Array:
        def one(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.sin(carry @ carry), None

        wide = jnp.sort(jnp.outer(jnp.arange(4000.0), x[0]), axis=1)
        return jax.lax.scan(one, wide[:200], None, length=3)[0].sum()

    compiled = jax.jit(step).lower(jnp.zeros((200, 200))).compile()
    ((kind, size, made), *_) = memory.largest_arrays(compiled.as_text() or "", 3)
    assert (kind, size) == ("f32[4000,200]", 4 * 200 * 4000)
    assert made
    text = memory.in_words(compiled, memory.needed_by(compiled, ()))
    assert text.startswith("156.2 KiB of arguments, ")
    assert f"{kind} of 3.1 MiB by {made}" in text
