"""What an attack on the last model shows: is one unlikely patient in the training?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import audit, base, lab
from ppml_lab.federated.simulate import run_chunk
from ppml_lab.lab import parts

ATTACK = "last model, one unlikely patient, {models} models"
"""The attack's name in tables."""


class Shown(NamedTuple):
    """What an audit shows."""

    at_least: float
    """A lower bound on epsilon."""
    ceiling: float
    """The most that this number of models can show."""
    models: int
    """Number of models that were trained."""


def lower_bound(point: lab.Point, num_runs: int, alpha: float = 0.05) -> Shown:
    """Trains models with and without an unlikely patient of the last silo, and tells
    them apart by the last model's score of the patient.

    The attack sees one released model, and knows all other rows. The number of people
    by which sums are divided is public, and the same on both sides.

    Args:
      point: A private run; its setup is trained as it stands, secure sum included.
      num_runs: Models on each side.
      alpha: The chance that the bound is wrong.
    """
    setup, delta = point.setup, point.delta
    rows, silos, _ = setup.data.load()
    order = np.argsort(silos, kind="stable")
    examples = {name: leaf[order] for name, leaf in rows.items()}
    sizes = np.bincount(silos)
    found = audit.training(
        _training(setup, sizes),
        examples,
        _unlikely(examples),
        score=_score(setup),
        num_runs=num_runs,
        width=64,
        delta=delta or 0.0,
        alpha=alpha,
    )
    return Shown(found.bound.epsilon, found.ceiling, 2 * num_runs)


def _unlikely(examples: Any) -> Any:
    """A patient of the last silo with one row at the end of the ranges, along the
    direction in which rows vary least, and with the rarer label.
    """
    rare = audit.canaries.rarest_direction(examples, 1.0, 0)
    x = (rare["x"] / np.abs(rare["x"]).max()).astype(np.float32)
    patient = {
        "x": x,
        "y": np.array([int(examples["y"].mean() < 0.5)], examples["y"].dtype),
        "silo": examples["silo"][-1:],
    }
    if "person" in examples:
        patient["person"] = examples["person"].max(keepdims=True) + 1
    return patient


def _training(setup: Any, sizes: np.ndarray) -> Callable[..., Any]:
    """The setup's training as a function of a key and rows, silo after silo."""
    facts, steps = lab.facts_of(setup), setup.schedule.num_rounds
    if isinstance(setup, parts.OnShares):

        def on_shares(key: base.Key, rows: Any) -> Any:
            shared, count = setup.shared(rows), len(rows["y"])
            # The number that divides stays that of the people without the patient.
            rate = setup.learning_rate * count / facts.num_examples
            training = replace(setup, learning_rate=rate).training(
                facts._replace(num_examples=count), steps
            )
            start = jnp.zeros(shared["x"].shape[1])
            return training.train(key, start, {"all owners": shared})

        return on_shares
    assert facts.people is not None
    # Room for the patient; counts that divide stay.
    people = facts.people._replace(
        most_people=facts.people.most_people + 1, most_rows=facts.people.most_rows + 1
    )
    algorithm = setup.algorithm(
        facts._replace(people=people, max_client_size=facts.max_client_size + 1)
    )

    def federated(key: base.Key, rows: Any) -> Any:
        ends = np.cumsum(sizes)
        ends[-1] = len(rows["y"])
        offsets = jnp.asarray([0, *ends], jnp.int32)
        first, rest = jax.random.split(key)
        state, _ = run_chunk(
            rest,
            algorithm,
            algorithm.init(first),
            base.Clients(rows, offsets),
            0,
            steps,
        )
        return state.params

    return federated


def _score(setup: Any) -> Callable[..., Any]:
    def score(params: Any, rows: Any) -> Any:
        logits = setup.predict(params, rows)
        up = logits[:, 1] - logits[:, 0]
        return jnp.where(rows["y"] == 1, up, -up)

    return score
