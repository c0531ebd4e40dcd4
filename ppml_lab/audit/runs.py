"""Audits of whole trainings: many vmapped runs with and without canaries.

A run is `(key, included) -> ...`, pure, so that keys and memberships are batch axes:
all runs, in and out, are one compiled program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, PyTree

from ppml_lab import arguments, base, checks
from ppml_lab.audit import canaries, distinguishers

Run = Callable[[base.Key, Bool[Array, " population"]], PyTree]


@arguments.checked
def membership_run(
    make: Callable[[base.ClientSampler], base.FederatedAlgorithm],
    sampler: base.ClientSampler,
    clients: base.Clients,
    num_rounds: int,
    *,
    per_round: Callable[[PyTree], PyTree],
    at_the_end: Callable[[PyTree, PyTree], PyTree],
) -> Run:
    """A training of the members that are `included`, as its adversary sees it.

    Args:
      make: Builds the algorithm from a sampler, with everything else fixed.
      sampler: The sampler of all members, canaries included.
      clients: The data of all members.
      num_rounds: The rounds of a training.
      per_round: From the model's change in a round to what is kept of this change: the
        white box, which sees all iterates.
      at_the_end: From the first and the last model to what is kept: the black box.

    Returns:
      `(key, included [population]) -> (results of per_round, over rounds; result of
      at_the_end)`.

    Raises:
      ValueError: If leaving a member out does not make a neighbour under the relation
        that the run is accounted under.
    """
    checks.at_least("num_rounds", num_rounds, 1)
    algorithm = make(sampler)
    if not isinstance(algorithm, base.FederatedAlgorithm):
        raise ValueError(
            "make must turn a sampler into a base.FederatedAlgorithm, got "
            f"{type(algorithm).__name__}"
        )
    event = algorithm.event(num_rounds)
    if event.neighboring_relation == "replace_one":
        raise ValueError(
            "canaries that are in or out need add_or_remove_one or zero_out, but this "
            "training is accounted under replace_one; take a sampler such as "
            "federated.poisson, or swap one record for another"
        )

    def run(key: base.Key, included: Bool[Array, " population"]) -> PyTree:
        algorithm = make(canaries.only(sampler, included))
        init_key, rounds_key = jax.random.split(key)
        start = algorithm.init(init_key)

        def one_round(state: Any, number: Array) -> tuple[Any, PyTree]:
            own = jax.random.fold_in(rounds_key, number)
            after, _ = algorithm.round(own, state, clients)
            change = jax.tree.map(jnp.subtract, after.params, state.params)
            return after, per_round(change)

        last, seen = jax.lax.scan(one_round, start, jnp.arange(num_rounds))
        return seen, at_the_end(start.params, last.params)

    return run


@arguments.checked
def many_runs(
    run: Run, width: int
) -> Callable[[int, Bool[np.ndarray, "runs population"]], PyTree]:
    """Independent runs, `width` at once, in one program.

    On a CPU a width of 8 to 32 is fastest, and gains little over 1.

    Returns:
      `(seed, included [runs, population]) -> NumPy arrays [runs, ...]`; every run has a
      key of its own and its row of `included`.
    """
    checks.at_least("width", width, 1)
    program = jax.jit(
        lambda keys, included: jax.lax.map(
            lambda pair: run(*pair),
            (keys, included),
            batch_size=None if width == 1 else width,
        )
    )

    @arguments.checked
    def runs(seed: int, included: Bool[np.ndarray, "runs population"]) -> PyTree:
        checks.at_least("seed", seed, 0)
        keys = jax.random.split(jax.random.key(seed), len(included))
        return jax.tree.map(np.asarray, program(keys, jnp.asarray(included)))

    return runs


@arguments.checked
def likelihood_ratio(
    values: Float[np.ndarray, "*runs rounds"],
    noise_multiplier: float,
    sampling_prob: float,
) -> Float[np.ndarray, "*runs"]:
    """The white-box score of a canary: the log-likelihood ratio of its projections.

    Each round counts as a sampled Gaussian whose mean the canary moves by 1.

    Args:
      values: Projections of noisy sums, in units of the sensitivity.
      noise_multiplier: The claimed noise multiplier.
      sampling_prob: The claimed sampling probability.

    Raises:
      ValueError: For noise that is not positive, or a probability outside (0, 1].
    """
    _check_claim(noise_multiplier, sampling_prob)
    values = np.asarray(values, np.float64)
    if not values.size or not values.ndim:
        raise ValueError(f"values must have an axis of rounds, got {values}")
    score = distinguishers.sampled_gaussian(
        0, 1.0, np.asarray(noise_multiplier, float), sampling_prob, by_round=False
    )
    flat = values.reshape(-1, values.shape[-1], 1)
    return score(flat).reshape(values.shape[:-1])


@arguments.checked
def claimed_scores(
    noise_multiplier: float,
    sampling_prob: float,
    num_rounds: int,
    *,
    num_runs: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Simulated white-box scores of the claimed mechanism, with and without a canary.

    There are `num_runs` scores of either kind, for `evidence.preregistered`.

    Raises:
      ValueError: For noise that is not positive, a probability outside (0, 1], counts
        below 1, or a negative seed.
    """
    _check_claim(noise_multiplier, sampling_prob)
    checks.at_least("num_rounds", num_rounds, 1)
    checks.at_least("num_runs", num_runs, 1)
    checks.at_least("seed", seed, 0)
    rng = np.random.default_rng(seed)
    found = []
    for present in (True, False):
        scores = []
        for begin in range(0, num_runs, 4096):
            shape = (min(4096, num_runs - begin), num_rounds)
            joined = present & (rng.random(shape) < sampling_prob)
            values = joined + noise_multiplier * rng.standard_normal(shape)
            scores.append(likelihood_ratio(values, noise_multiplier, sampling_prob))
        found.append(np.concatenate(scores))
    return found[0], found[1]


def _check_claim(noise_multiplier: float, sampling_prob: float) -> None:
    checks.positive("noise_multiplier", noise_multiplier)
    checks.probability("sampling_prob", sampling_prob, allow_one=True)
