"""Subjects of the contract: trainings whose clients sum their people's gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int, PyTree

from ppml_lab import arguments, base, checks, data, smpc
from ppml_lab.audit import worlds
from ppml_lab.audit.subjects import (
    Present,
    Release,
    Rounds,
    Rows,
    Subject,
    bound_moved,
    first_clip_norm,
    noise_of,
    stated_noise,
)
from ppml_lab.audit.training_subjects import linear_task
from ppml_lab.federated.simulate import run_chunk

NUM_CLIENTS = 3
_APART = 0.25
"""The distance, on each coordinate, of a person's two rows from their mean."""


@arguments.checked
def of_people(
    make: Callable[[base.Task, data.People], base.FederatedAlgorithm],
    mechanism: base.PrivacyMechanism,
    sampling_prob: float,
    num_rounds: int,
    *,
    rows_each: int = 1,
    aggregator: base.SecureAggregator | None = None,
) -> Subject:
    """Clients that draw and bound their own people, seen through the model.

    A row of the worlds is a person; three clients have three people each. A person has
    `rows_each` examples, and the row is the mean of these examples.

    Args:
      make: Builds the algorithm from the audit's task and people, with a server's rate
        of 1.
      mechanism: The mechanism that the algorithm was built with.
      sampling_prob: The probability that a person is drawn.
      num_rounds: The rounds of a run.
      rows_each: Examples of a person, 1 or 2.
      aggregator: The secure sum that the algorithm was built with, `smpc.clear()` by
        default.

    Raises:
      ValueError: For a probability outside (0, 1], no rounds, or other numbers of
        examples.
    """
    checks.probability("sampling_prob", sampling_prob, allow_one=True)
    checks.at_least("num_rounds", num_rounds, 1)
    checks.at_least("rows_each", rows_each, 1)
    checks.within("rows_each", rows_each, 1, 2)
    aggregator = smpc.clear() if aggregator is None else aggregator
    each = -(-worlds.NUM_ROWS // NUM_CLIENTS)
    people = data.People(
        worlds.NUM_ROWS, NUM_CLIENTS, each, each * rows_each, rows_each
    )
    algorithm = make(linear_task(), people)
    expected = sampling_prob * worlds.NUM_ROWS

    def at(
        key: base.Key, rows: Rows, present: Present, numbers: Int[Array, " rounds"]
    ) -> Release:
        clients = _dealt(rows, present, rows_each)
        init_key, rounds_key = jax.random.split(key)

        def one_round(state: Any, number: Array) -> tuple[Any, Release]:
            state = state._replace(rounds_done=number)
            after, _ = run_chunk(rounds_key, algorithm, state, clients, number, 1)
            moved = worlds.as_rows(after.params) - worlds.as_rows(state.params)
            states = state.mechanism_state, after.mechanism_state
            values = moved * expected / _sensitivity(states[0])
            return after, Release(values, values[:0], bound_moved(mechanism, *states))

        return jax.lax.scan(one_round, algorithm.init(init_key), numbers)[1]

    def _sensitivity(state: PyTree) -> Any:
        everyone = jnp.ones(NUM_CLIENTS, bool)
        bound = each * mechanism.message_bound(state)
        session = aggregator.begin(jax.random.key(0), everyone, everyone, bound)
        assert aggregator.change is not None
        return aggregator.change(session, mechanism.norm_bound(state), worlds.DIMENSION)

    return Subject(
        Rounds(at, num_rounds),
        algorithm.event(num_rounds),
        first_clip_norm(mechanism),
        stated_noise(mechanism, num_rounds),
        sampling_prob=sampling_prob,
        one_noise=noise_of(mechanism),
    )


def _dealt(rows: Rows, present: Bool[Array, " rows"], rows_each: int) -> base.Clients:
    """The clients of the people who are present.

    A client's people come without gaps, the canary last, so that the others keep their
    places.
    """
    person = jnp.arange(worlds.NUM_ROWS)
    owner = person % NUM_CLIENTS
    order = jnp.lexsort((person == 0, ~present, owner))
    # Absent people stand beyond the offsets, at any place.
    order = order[jnp.argsort(~present[order])]
    counts = jnp.zeros(NUM_CLIENTS, jnp.int32).at[owner].add(present.astype(jnp.int32))
    offsets = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts)])
    apart = jnp.where(jnp.arange(rows_each) % 2 == 0, 1.0, -1.0) * (rows_each - 1)
    spread = _APART * apart[:, None] * jnp.ones(worlds.DIMENSION)
    examples = (rows[order][:, None] + spread).reshape(-1, worlds.DIMENSION)
    names = jnp.repeat(jnp.arange(worlds.NUM_ROWS), rows_each)
    return base.Clients(
        worlds.as_tree(examples) | {data.persons.LEAF: names}, rows_each * offsets
    )
