"""Devices of a sweep: how its points and clients lie on them changes no result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import lab
from ppml_lab.lab import program, sharding

TINY = lab.Config(
    data=lab.DataConfig(num_clients=20),
    num_rounds=2,
    eval_every=2,
    cohort=8,
    privacy="central",
    evaluate_clients=True,
)


def run(config, seeds):
    """The states, infos and metrics of points that differ by their seed."""
    facts = lab.load_data(config.data, config.num_devices, config.shard_data)
    seeds = jnp.asarray(seeds, jnp.uint32)
    hyperparams = jax.tree.map(
        lambda value: jnp.full(len(seeds), value, jnp.float32),
        lab.Hyperparams(clip_norm=0.3, noise_multiplier=1.0),
    )
    states = jax.jit(program.mapped_init(config, facts.facts))(hyperparams, seeds)
    chunk = program.mapped_chunk(config, facts.facts, program.Chunk(1, 2), 1)
    return jax.jit(chunk)(hyperparams, seeds, states, *facts[:2], jnp.int32(0))


# Four devices as 1 x 4, 2 x 2 and 4 x 1; with shards of the data and without.
EVERY_LAYOUT = [(2, False), (2, True), (4, False), (4, True)]


@pytest.mark.parametrize(
    ("secure_sum", "layouts"),
    [
        # Points over rows, and clients by shard along them.
        ("additive_sharing", [(2, True)]),
        *(
            pytest.param(secure_sum, EVERY_LAYOUT, marks=pytest.mark.exhaustive)
            for secure_sum in ("clear", "additive_sharing")
        ),
    ],
    ids=str,
)
def test_devices_for_points_and_clients_change_no_modular_bit(secure_sum, layouts):
    config = dataclasses.replace(TINY, secure_sum=secure_sum)
    first, *reference = run(dataclasses.replace(config, num_devices=1), range(4))
    others = [
        run(dataclasses.replace(config, num_devices=row, shard_data=by_shard), range(4))
        for row, by_shard in layouts
    ]
    assert int(first.rounds_done[0]) == 2
    for state, infos, metrics in others:
        if secure_sum == "additive_sharing":
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
        row: tuple(sharding.lab_mesh(row).shape.values()) for row in (None, 1, 2, 3, 4)
    }
    assert shapes == {None: (1, 4), 1: (4, 1), 2: (2, 2), 3: (1, 3), 4: (1, 4)}
    with pytest.raises(ValueError, match="num_devices 5 is more than the 4"):
        sharding.lab_mesh(5)


def test_three_points_on_four_rows_are_three_results(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, num_devices=1, privacy="none")
    points = [
        lab.Point(config, lab.Hyperparams(), seed, {"seed": seed}) for seed in range(3)
    ]
    side_by_side = lab.run_sweep(points, tmp_path / "rows", slice_size=4)
    alone = lab.run_sweep(points, tmp_path / "alone", slice_size=1)
    for one, other in zip(side_by_side, alone, strict=True):
        for name in ("loss", "accuracy", "train_loss", "client_accuracy"):
            assert one.last[name] == other.last[name]
    assert len({one.last["loss"] for one in alone}) == 3


def test_central_training_needs_whole_data():
    config = lab.Config(training="central", shard_data=True)
    with pytest.raises(ValueError, match="shard_data"):
        lab.build(config, lab.Hyperparams(), lab.load_data(config.data).facts)
