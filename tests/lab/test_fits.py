"""How many runs fit a device, before they run."""

from __future__ import annotations

import jax
import pytest

from ppml_lab import lab
from ppml_lab.lab import chips, fits, memory, parts, program

SETUP = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Everyone(),
    schedule=lab.Schedule(num_rounds=2, eval_every=1),
)


def fit(**fields: int) -> fits.Fit:
    whole = {
        "lanes": 1, "width": 4, "data_bytes": 0, "one_bytes": 100, "state_bytes": 10,
        "side_bytes": 30, "free_bytes": 0, "largest": 16,
    }  # fmt: skip
    return fits.Fit(**whole | fields)


@pytest.mark.parametrize(
    ("free", "most", "chosen"),
    [
        (99, 0, 0),  # not one
        (100, 1, 1),
        (139, 1, 1),
        (140, 2, 2),
        (220, 4, 4),  # as many as are computed side by side
        (229, 4, 4),
        (230, 5, 5),  # more wait with their states alone
        (340, 16, 16),
        (1000, 82, 16),
    ],
)
def test_points_fit_as_their_bytes_say(free: int, most: int, chosen: int) -> None:
    found = fit(free_bytes=free)
    assert (found.most, found.chosen) == (most, chosen)


@pytest.mark.exhaustive  # cli/test_doctor prints it
def test_what_fits_is_what_the_compiler_says() -> None:
    group = program.group_of(lab.Point(SETUP, 0, {}))
    found = fits.here(group, 10**6)
    assert found.width == 1
    data = lab.load_data(SETUP)[:3]
    chunk = program.chunks_of(SETUP.schedule)[0]
    size = 5
    compiled = program.compile_chunk(group, chunk, size, 1).run
    needed = memory.needed_by(compiled, data).total
    told = found.one_bytes + (size - 1) * (found.state_bytes + found.side_bytes)
    assert told == pytest.approx(needed, rel=0.02)
    assert found.data_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(data))


# Its rule is tested above, and its bytes are the compiler's.
@pytest.mark.exhaustive
def test_a_chip_that_is_not_here_gets_an_estimate() -> None:
    group = program.group_of(lab.Point(SETUP, 0, {}))
    h200 = chips.of_kind("NVIDIA H200")
    assert h200 is not None
    found = fits.elsewhere(group, h200)
    assert (found.lanes, found.width, found.largest) == (64, 32, 1024)
    assert found.free_bytes == int(0.75 * 141e9) - found.data_bytes
    # Side by side they have temporaries of their own.
    assert found.side_bytes > found.state_bytes > 0
    assert found.chosen == 1024


def test_chips_are_told_apart() -> None:
    kinds = [chip.kind for chip in chips.CHIPS]
    assert len(kinds) == len({*kinds}) == len({chip.name for chip in chips.CHIPS})
    assert chips.of_kind("cpu") is None
    v5e = chips.of_kind("TPU v5 lite")
    assert v5e is not None
    assert v5e.usable_bytes == 16 * 2**30
