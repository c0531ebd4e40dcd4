"""The programs that are compiled for chips that are not here, by name."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp

from experiments.benchmarks.accelerators_cells import makers
from experiments.benchmarks.device_day_cells.close import MODELS
from experiments.benchmarks.device_day_cells.exact import RINGS
from ppml_lab import lab, models, random
from ppml_lab.lab import parts, program
from ppml_lab.smpc import field, masking, shamir, sharing
from ppml_lab.smpc import ring as rings

ALGORITHMS = {
    "FedAvg": parts.FedAvg(),
    "FedProx": parts.FedProx(),
    "Scaffold": parts.Scaffold(),
    "LocalDpSgd": parts.LocalDpSgd(noise_multiplier=1.0),
    "ExampleGradients": parts.ExampleGradients(),
}
MECHANISMS = {
    "NoPrivacy": parts.NoPrivacy(),
    "Gaussian": parts.Gaussian(1.0, 1.0),
    "AdaptiveGaussian": parts.AdaptiveGaussian(1.0, 1.0),
    "ScheduledGaussian": parts.ScheduledGaussian(1.0, 1.0),
    "CorrelatedGaussian": parts.CorrelatedGaussian(1.0, 1.0),
    "BandedGaussian": parts.BandedGaussian(1.0, 1.0),
    "LocalGaussian": parts.LocalGaussian(1.0, 1.0),
    "LocalLaplace": parts.LocalLaplace(1.0, 1.0),
    "RandomisedResponse": parts.RandomisedResponse(),
}
SUMS: dict[str, Callable[..., Any]] = {
    "Clear": lambda max_abs: parts.Clear(),
    "AdditiveSharing": lambda max_abs: parts.AdditiveSharing(max_abs=max_abs),
    "PairwiseMasking": lambda max_abs: parts.PairwiseMasking(max_abs=max_abs),
    "KRegular": lambda max_abs: parts.PairwiseMasking(
        parts.KRegular(), max_abs=max_abs
    ),
    "LightSecAgg": lambda max_abs: parts.LightSecAgg(max_abs=max_abs),
}
SAMPLERS = (
    parts.Poisson(makers.COHORT),
    parts.FixedSize(makers.COHORT),
    parts.MinSeparation(makers.COHORT),
    parts.Everyone(),
)


def names() -> dict[str, str]:
    """All programs, each with its kind of work."""
    return {name: "pairs" for name in pairs()} | {
        name: kind for name, (kind, _) in OTHERS.items()
    }


@functools.cache
def pairs() -> tuple[str, ...]:
    """A small set of federated runs in which every two of algorithm, mechanism and
    secure sum that go together meet at least once.
    """
    all_three = [
        three
        for three in itertools.product(ALGORITHMS, MECHANISMS, SUMS)
        if next(_setups(*three), None) is not None
    ]
    left = set().union(*map(_met, all_three))
    chosen = []
    while left:
        # Ties go to the first, so that the list is the same everywhere.
        best = max(all_three, key=lambda three: len(left & _met(three)))
        chosen.append(", ".join(best))
        left -= _met(best)
    return tuple(chosen)


def _met(three: tuple[str, str, str]) -> set[tuple[str, str]]:
    return set(itertools.combinations(three, 2))


def _setups(algorithm: str, mechanism: str, summed: str) -> Iterator[parts.Federated]:
    """Yields the setups that can be built; a sampler or a bound may forbid some."""
    for sampler, max_abs in itertools.product(SAMPLERS, (None, 8.0)):
        setup = parts.Federated(
            partition=parts.Iid(4 * makers.COHORT),
            model=parts.TwoNN(),
            trainer=ALGORITHMS[algorithm],
            sampler=sampler,
            mechanism=MECHANISMS[mechanism],
            secure_sum=SUMS[summed](max_abs),
            schedule=makers.SHORT,
        )
        try:
            setup.algorithm(program.facts_of(setup))
        except ValueError:
            continue
        yield setup


def prepared(name: str) -> makers.Make:
    """Loads the data of a program.

    Raises:
      ValueError: For an unknown program.
    """
    if name in OTHERS:
        return OTHERS[name][1]()
    three = tuple(name.split(", "))
    if len(three) != 3 or not all(
        one in known
        for one, known in zip(three, (ALGORITHMS, MECHANISMS, SUMS), strict=True)
    ):
        raise ValueError(
            f"program '{name}' must be an algorithm, a mechanism and a secure sum, "
            f"such as 'FedAvg, Gaussian, Clear', or one of: {'; '.join(OTHERS)}"
        )
    return makers.slice_of(next(_setups(*three)))


OTHERS: dict[str, tuple[str, Callable[[], makers.Make]]] = {
    "2NN, 64 lanes": ("rounds", makers.rounds(parts.TwoNN(), 64)),
    "2NN, 64 lanes, Gaussian": (
        "rounds",
        makers.rounds(parts.TwoNN(), 64, mechanism=parts.Gaussian(1.0, 1.0)),
    ),
    "CNN, 64 lanes, Gaussian": (
        "rounds",
        makers.rounds(parts.Cnn(), 64, mechanism=parts.Gaussian(1.0, 1.0)),
    ),
    "CNN, 1 lane": ("rounds", makers.rounds(parts.Cnn(), 1)),
    "Median": (
        "rounds",
        makers.federated_run(
            rule=parts.Median(), trainer=parts.SignFlipping(parts.FedAvg())
        ),
    ),
    "TopK": (
        "rounds",
        makers.federated_run(trainer=parts.TopK(), mechanism=parts.Gaussian(1.0, 1.0)),
    ),
    "personal head": (
        "rounds",
        makers.federated_run(kept=("Dense_2",), held_out=0.2, metrics=()),
    ),
    "live epsilon": (
        "rounds",
        makers.federated_run(mechanism=parts.Gaussian(1.0, 1.0), live_epsilon=True),
    ),
    "data by shard": (
        "rounds",
        makers.federated_run(layout=lab.Layout(shard_data=True)),
    ),
    "a round on a mesh, masked in pairs": ("rounds", makers.round_on_a_mesh),
    "a slice of 32 points": (
        "sweep",
        makers.federated_run(32, mechanism=parts.Gaussian(1.0, 1.0)),
    ),
    "2NN, batch 256, ghost": ("DP-SGD", makers.dp_sgd(parts.TwoNN(), 256, "ghost")),
    "CNN, batch 256, ghost": ("DP-SGD", makers.dp_sgd(parts.Cnn(), 256, "ghost")),
    "tutorial CNN, batch 256, ghost": (
        "DP-SGD",
        makers.dp_sgd(parts.TutorialCnn(), 256, "ghost"),
    ),
    "2NN, batch 256, vmap": ("DP-SGD", makers.dp_sgd(parts.TwoNN(), 256, "vmap")),
    "replicated, ideal": ("on shares", makers.training_on_shares()),
    "replicated, full": ("on shares", makers.training_on_shares(ideal=False)),
    "additive, full": (
        "on shares",
        makers.training_on_shares(kind="additive", ideal=False),
    ),
    "inference, 2NN, replicated": (
        "on shares",
        makers.inference(MODELS["2nn"][0], 128, kind="replicated", fraction_bits=18),
    ),
    "inference, 2NN, additive": (
        "on shares",
        makers.inference(
            MODELS["2nn"][0], 128, kind="additive", fraction_bits=18, ideal=False
        ),
    ),
    "inference, LeNet, replicated": (
        "on shares",
        makers.inference(models.LeNet(10), 16, kind="replicated", fraction_bits=18),
    ),
    "own training, 32 runs": ("audits", lambda: makers.own_training(32)),
    "canary clients, 32 runs": ("audits", lambda: makers.membership(32)),
    "normal numbers": (
        "primitives",
        makers.of_function(lambda seed: random.normal(seed, 1 << 22)),
    ),
    "masks": (
        "primitives",
        makers.of_function(
            lambda seed: masking.sum_of_masks(
                rings.Z32,
                random.child(seed, jnp.arange(64)),
                jnp.ones(64, jnp.int32),
                1 << 20,
            )
        ),
    ),
    "additive shares": (
        "primitives",
        makers.of_function(
            lambda seed, value: (
                sharing.share(seed, value, sharing.additive(3, rings.Z64)).shares
            ),
            lambda seed: rings.Z64.uniform(seed, 1 << 22),
        ),
    ),
    "Shamir shares": (
        "primitives",
        makers.of_function(
            lambda seed, value: (
                sharing.share(seed, value, shamir.shamir(3, 5, field.F61)).shares
            ),
            lambda seed: field.F61.uniform(seed, 1 << 16),
        ),
    ),
    **{
        f"product over {name}": ("primitives", makers.matrices(ring, 1024))
        for name, ring in RINGS.items()
    },
}
"""Programs that are no pairs: their kind of work, and the function to prepare them."""
