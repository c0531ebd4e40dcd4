"""Devices of a sweep: how its points and clients lie on them changes no result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import lab
from ppml_lab.lab import parts, program, setup

TINY = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Poisson(8),
    mechanism=parts.Gaussian(0.3, 1.0),
    client_metrics=True,
    schedule=lab.Schedule(num_rounds=2, eval_every=2),
)


def laid_out(setup: Any, **fields: Any) -> Any:
    return replace(setup, layout=lab.Layout(**fields))


def run(setup: Any) -> Any:
    """The states, infos and metrics of four points that differ by their seed."""
    points = lab.points(lab.seeds(4), setup)
    inputs, group = program.inputs_of(points), program.group_of(points[0])
    chunk = jax.jit(program.mapped_chunk(group, program.Chunk(1, 2), 1))
    states = program.init_program(group)(*inputs)
    return chunk(*inputs, states, *lab.load_data(setup)[:3], jnp.int32(0))


# Four devices as 1 x 4, 2 x 2 and 4 x 1; with shards of the data and without.
EVERY_LAYOUT = [(2, False), (2, True), (4, False), (4, True)]


@pytest.mark.exhaustive  # of rounds: federated/test_averaging
@pytest.mark.parametrize(
    ("secure_sum", "layouts"),
    [
        # Points over rows, and clients by shard along them.
        (parts.AdditiveSharing(mode="identity"), [(2, True)]),
        *(
            pytest.param(secure_sum, EVERY_LAYOUT, marks=pytest.mark.exhaustive)
            for secure_sum in (parts.Clear(), parts.AdditiveSharing())
        ),
    ],
    ids=lambda value: str(value).split("(")[0] or None,
)
def test_devices_for_points_and_clients_change_no_modular_bit(
    secure_sum: Any, layouts: list[tuple[int, bool]]
) -> None:
    setup = replace(TINY, secure_sum=secure_sum)
    first, *reference = run(laid_out(setup, num_devices=1))
    others = [
        run(laid_out(setup, num_devices=row, shard_data=by_shard))
        for row, by_shard in layouts
    ]
    assert int(first.rounds_done[0]) == 2
    for state, infos, metrics in others:
        if secure_sum != parts.Clear():
            jax.tree.map(np.testing.assert_array_equal, state.params, first.params)
        for found, expected in zip(
            (state.params, infos, metrics), (first.params, *reference), strict=True
        ):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                found,
                expected,
            )


def test_rows_of_devices_take_points_and_leave_incomplete_rows_idle():
    shapes = {
        row: tuple(setup.lab_mesh(row).shape.values()) for row in (None, 1, 2, 3, 4)
    }
    assert shapes == {None: (1, 4), 1: (4, 1), 2: (2, 2), 3: (1, 3), 4: (1, 4)}
    with pytest.raises(ValueError, match="num_devices 5 is more than the 4"):
        setup.lab_mesh(5)


def test_three_points_on_four_rows_are_three_results(tmp_path: Path) -> None:
    setup = laid_out(replace(TINY, mechanism=parts.NoPrivacy()), num_devices=1)
    points = lab.points(lab.seeds(3), setup)
    side_by_side = lab.run_sweep(points, tmp_path / "rows", slice_size=4)
    alone = lab.run_sweep(points, tmp_path / "alone", slice_size=1)
    for one, other in zip(side_by_side, alone, strict=True):
        for name in ("loss", "accuracy", "train_loss", "client_accuracy"):
            assert one.last[name] == other.last[name]
    assert len({one.last["loss"] for one in alone}) == 3


def test_central_training_needs_whole_data() -> None:
    setup = parts.Central(layout=lab.Layout(shard_data=True))
    with pytest.raises(ValueError, match="shard_data"):
        setup.algorithm(lab.facts_of(setup))
