"""A sweep over traced numbers and seeds is traced and compiled once."""

import jax
import numpy as np
import pytest

from ppml_lab import lab
from ppml_lab.lab import budget, program, programs

CONFIG = lab.Config(
    data=lab.DataConfig(dataset="digits", num_clients=10),
    sampler="everyone",
    num_rounds=2,
    eval_every=1,
    batch_size=200,
    privacy="central",
)
NOISES = (0.05, 0.1, 0.3, 1.0, 3.0)
POINTS = [
    lab.Point(
        CONFIG,
        lab.Hyperparams(noise_multiplier=noise),
        seed,
        {"noise_multiplier": noise, "seed": seed},
    )
    for noise in NOISES
    for seed in range(4)
]


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """What sweeps of the 20 points give, and how often each built its algorithm."""
    built, found = [], {}

    def counting(*arguments):
        built.append(arguments)
        return lab.build(*arguments)

    compiled = []

    def listen(event: str, duration_secs: float, **rest: int | str) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(rest.get("fun_name")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "build", counting)
        patch.setattr(budget, "build", counting)
        jax.monitoring.register_event_duration_secs_listener(listen)
        for slice_size, width in [(20, 1), (1, 1), (20, 4)]:
            programs.init_program.cache_clear()
            budget.events_of.cache_clear()
            built.clear()
            compiled.clear()
            outcomes = lab.run_sweep(
                POINTS,
                tmp_path_factory.mktemp("sweep"),
                width=width,
                slice_size=slice_size,
            )
            chunks = sum("chunk" in name for name in compiled)
            found[slice_size, width] = outcomes, len(built), chunks
        jax.monitoring.unregister_event_duration_listener(listen)
    return found


@pytest.mark.parametrize("kind", [(20, 1), (1, 1), (20, 4)])
def test_twenty_points_are_one_program(counted, kind):
    _, built, chunks = counted[kind]
    # Built with numbers to check each noise, then traced once to make the first states
    # and once for the rounds; two chunks of one round, in one slice or in twenty, are
    # one program.
    assert built == len(NOISES) + 2
    assert chunks == 1


@pytest.mark.parametrize("kind", [(1, 1), (20, 4)])
def test_slices_and_width_change_nothing_but_rounding(counted, kind):
    for one, other in zip(counted[20, 1][0], counted[kind][0], strict=True):
        for name in ("loss", "train_loss", "cohort_size", "accuracy"):
            np.testing.assert_allclose(other.last[name], one.last[name], rtol=1e-4)


def test_points_are_told_apart(counted):
    losses = np.array([row.last["loss"] for row in counted[20, 1][0]]).reshape(5, 4)
    assert len(np.unique(losses)) == 20
    assert losses[-1].mean() > losses[0].mean()
