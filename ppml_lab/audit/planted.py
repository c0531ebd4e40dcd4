"""The lab's own trainings with planted canaries, seen in every iterate.

This is the white box of Nasr et al., "Tight Auditing of Differentially Private Machine
Learning", USENIX Security 2023. Canaries are the last members of the population. They
go through the real clipping, sampling, sums and noise. An adversary sees the change of
the model in a round, projected on the canaries' directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, PyTree

from ppml_lab import arguments, base, checks, data
from ppml_lab.audit import canaries, runs
from ppml_lab.audit.own_training import Leak, check_runs, leak_of
from ppml_lab.data import columns


class Planted(NamedTuple):
    """A training whose last members are canaries: see `in_examples`, `in_clients`."""

    make: Callable[[base.ClientSampler], base.FederatedAlgorithm]
    """Builds the algorithm from a sampler."""
    sampler: base.ClientSampler
    """The sampler of all members."""
    clients: base.Clients
    """The data of all members."""
    directions: canaries.Directions
    """The directions of the canaries, in their order, then directions of no canary."""
    num_canaries: int
    """The number of members that are canaries."""
    gain: float
    """The factor from the change of the model along a canary to the round's noisy sum,
    in units of the sensitivity."""

    def run(
        self,
        num_rounds: int,
        at_the_end: Callable[[PyTree, PyTree], PyTree] = lambda first, last: (),
    ) -> runs.Run:
        """A training seen in the canaries' directions; see `membership_run`."""
        return runs.membership_run(
            self.make,
            self.sampler,
            self.clients,
            num_rounds,
            per_round=lambda change: self.gain * self.directions.project(change),
            at_the_end=at_the_end,
        )

    def included(
        self, num_runs: int, canary: int = -1
    ) -> Bool[np.ndarray, "runs population"]:
        """The members in each of `2 * num_runs` trainings.

        Everybody is in, but the canary at this place of the population is in the first
        half only.
        """
        found = np.ones((2 * num_runs, self.sampler.population), bool)
        found[num_runs:, canary] = False
        return found


@arguments.checked
def in_examples(
    make: Callable[[base.ClientSampler, Any], base.FederatedAlgorithm],
    loss: base.TaskLoss,
    examples: Mapping[str, Any],
    directions: canaries.Directions,
    sampler: Callable[[int], base.ClientSampler],
    *,
    moves: float,
    num_canaries: int | None = None,
) -> Planted:
    """Pooled training with a canary for each direction among the examples.

    Args:
      make: `(sampler, method) -> algorithm`, such as `federated.central_sgd` with this
        `method`, which gives canaries their gradients.
      loss: The task's loss.
      examples: Rows of `x` and `y`.
      directions: The canaries' directions; best are those along which no example moves
        the model.
      sampler: From the population, canaries included, to the sampler.
      moves: The move of the model along a canary's direction in a step whose clipped
        mean is the canary alone: for plain SGD, minus the rate times the clip norm.
      num_canaries: The number of directions, from the first, that have a canary; None
        for all.

    Raises:
      ValueError: For examples without `x` and `y`, a move of 0, or more canaries than
        directions.
    """
    joined = _with_canaries(examples, directions, num_canaries)
    count = len(joined["y"])
    pooled = base.Clients(jax.tree.map(jnp.asarray, joined), jnp.array([0, count]))
    method = canaries.gradient_canaries(loss, directions)
    drawn = sampler(count)
    return Planted(
        lambda sampler: make(sampler, method),
        drawn,
        pooled,
        directions,
        count - len(examples["y"]),
        _gain(drawn, moves),
    )


@arguments.checked
def in_clients(
    make: Callable[[base.ClientSampler, base.ClientTrainer], base.FederatedAlgorithm],
    trainer: base.ClientTrainer,
    examples: Mapping[str, Any],
    owners: Any,
    directions: canaries.Directions,
    sampler: Callable[[int], base.ClientSampler],
    *,
    moves: float,
    num_canaries: int | None = None,
) -> Planted:
    """Federated training with a client for each direction among the clients.

    Args:
      make: `(sampler, trainer) -> algorithm`, such as `federated.averaging` with this
        trainer, by which canary clients send their direction.
      trainer: The trainer of all clients.
      examples: Rows of `x` and `y`.
      owners: Each row's client, from 0 on.
      directions: The canaries' directions; best are those along which no client's
        update moves the model.
      sampler: From the population, canaries included, to the sampler.
      moves: The move of the model along a canary's direction in a round whose clipped
        mean is the canary alone: for plain averaging, the server's rate times the clip
        norm.
      num_canaries: The number of directions, from the first, that have a canary; None
        for all.

    Raises:
      ValueError: For examples without `x` and `y`, owners that do not fit them, a move
        of 0, or more canaries than directions.
    """
    joined = _with_canaries(examples, directions, num_canaries)
    given = columns.one_axis("owners", owners)
    checks.entries("owners", given, len(examples["y"]), "rows of examples")
    users = data.partition.natural(given)
    first, added = int(users.max()) + 1, len(joined["y"]) - len(users)
    owned = np.concatenate([users, first + np.arange(added)])
    planted = canaries.canary_clients(trainer, directions)
    drawn = sampler(first + added)
    return Planted(
        lambda sampler: make(sampler, planted),
        drawn,
        data.federate(joined, owned),
        directions,
        added,
        _gain(drawn, moves),
    )


@arguments.checked
def white_box(
    planted: Planted,
    noise_multiplier: float,
    num_rounds: int,
    *,
    num_runs: int = 200,
    width: int = 8,
    seed: int = 0,
    delta: float,
    alpha: float = 0.05,
) -> Leak:
    """A lower bound on the epsilon of a whole training from all its iterates.

    The training runs with and without its last canary; scores are likelihood ratios of
    the claimed Gaussians. The threshold is chosen on one half of the runs. Where the
    claim is right, a threshold chosen on the claim's simulation (`claimed_scores`,
    `evidence.preregistered`) leaves all runs to be counted, and gives a tighter bound.

    **Guarantee:** the bound is above the truth with probability `alpha` at most, for
    any training; the claim affects only how tight the bound is.

    Args:
      planted: The training.
      noise_multiplier: The claimed noise multiplier.
      num_rounds: The rounds of a training.
      num_runs: Trainings on each side.
      width: Trainings at once in the compiled program.
      seed: The seed of the trainings, and of the halves.
      delta: The delta at which epsilon is bounded.
      alpha: The probability that the bound is wrong.

    Raises:
      ValueError: For a sampler that does not draw each member by a coin of its own,
        whose releases are not sampled Gaussians, or too few runs.
    """
    prob = planted.sampler.participation(num_rounds).sampling_prob
    if prob is None:
        raise ValueError(
            "planted.sampler draws members that depend on each other, so that releases "
            "are not sampled Gaussians; take federated.poisson"
        )
    check_runs(num_runs, alpha, delta)
    many = runs.many_runs(planted.run(num_rounds), width)
    seen, _ = many(seed, planted.included(num_runs))
    own = seen[:, :, planted.num_canaries - 1]
    scores = runs.likelihood_ratio(own, noise_multiplier, float(prob))
    return leak_of(scores[:num_runs], scores[num_runs:], seed, delta, alpha)


@arguments.checked
def untouched(
    task: base.Task, examples: Mapping[str, Any], count: int
) -> canaries.Directions:
    """`count` coordinates of the model that no example's gradient moves.

    They are in a random order; see `canaries.untouched_weights`.

    Raises:
      ValueError: If there are fewer such coordinates.
    """
    checks.at_least("count", count, 1)
    params = task.init(jax.random.key(0))
    places = canaries.untouched_weights(params, examples)
    if len(places) < count:
        raise ValueError(
            f"count is {count}, but only {len(places)} coordinates are untouched; "
            "lower count, or take canaries.isotropic directions"
        )
    return canaries.dirac(params, np.random.default_rng(0).permutation(places)[:count])


def _with_canaries(
    examples: Mapping[str, Any], directions: canaries.Directions, count: int | None
) -> dict[str, np.ndarray]:
    """The examples, and a row for each canary, whose own gradient is never used."""
    count = directions.count if count is None else count
    checks.at_least("num_canaries", count, 1)
    checks.within(
        "num_canaries, at most the number of directions,", count, 1, directions.count
    )
    rows = {k: np.repeat(np.asarray(v)[:1], count, 0) for k, v in examples.items()}
    return canaries.append(examples, rows, np.arange(count))


def _gain(sampler: base.ClientSampler, moves: float) -> float:
    checks.positive("the size of moves", abs(moves))
    return float(sampler.expected_cohort) / moves
