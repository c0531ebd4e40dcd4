"""DP-SGD across silos: each client sums one bounded gradient for each of its people.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, where no party holds
everybody's rows: clients draw and clip, a secure sum adds up, and noise is added once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from ppml_lab import arguments, base, checks, data, dp, guards, pairs, trees
from ppml_lab.data import persons
from ppml_lab.dp import per_example
from ppml_lab.dp.gradients import METHODS
from ppml_lab.federated import minibatch, roles, sampling
from ppml_lab.federated.contributions import Contributions


class PeopleState(NamedTuple):
    """The state of a client in its one step.

    Attributes:
      total: The sum of its people's gradients, as the mechanism bounds them.
      seen: Sums over the people drawn: their "loss", their number, "people", and for
        bounded gradients their "norm" before and how many were "clipped".
    """

    total: PyTree
    seen: dict[str, Float[Array, ""]]


class Rows(NamedTuple):
    """The rows of some people.

    Attributes:
      at: Row numbers of the examples; beyond a person's own, the person's first again.
      there: True for the rows that count.
      known: True for the people that exist.
      fits: True where there is room for all people and all of their rows.
    """

    at: Int[Array, "people rows"]
    there: Bool[Array, "people rows"]
    known: Bool[Array, " people"]
    fits: Bool[Array, ""]


_STATE = guards.one_of(PeopleState, "`init` makes the first")


@arguments.checked
def example_gradients(
    task: base.Task,
    people: data.People,
    sampling_prob: float,
    *,
    method: str = "auto",
    microbatch_size: int | None = None,
) -> base.ClientTrainer:
    """A trainer for DP-SGD across clients: each client draws some of its people, bounds
    one gradient for each of them and sends the sum. Every round is a step of DP-SGD on
    all clients' rows.

    A person's gradient is that of the mean loss over their rows. Every person is drawn
    in every round with probability `sampling_prob`, by a coin of their own. `averaging`
    passes in the mechanism, which has to protect examples, adds its noise to the sum of
    all clients and divides by the expected number of people, `sampling_prob` times
    `people.count`; the server's optimizer takes the step. Without noise this is
    `central_sgd` on the same draw. A training's scalars (`train_loss`, the number of
    people drawn as `batch_size`, `gradient_norm` before clipping and
    `gradient_clipped_share`) are over the expected number; they are for the researcher
    and not private.

    **Guarantee:** with `averaging`, towards everybody who sees the models: adding or
    removing one person with all their rows is protected as `central_sgd`'s event says
    of examples, Poisson-sampled among all clients' people. This holds where each person
    is in one client only, which is checked, and every client takes part in every round.
    Which clients exist is public, and so is which of them drop out: a client that drops
    out takes all its people with it, and no amplification is claimed for that. Whoever
    adds the noise is trusted with the sum; hiding a client's own part is up to the
    secure sum. A client that does not clip as it should is not detected.

    Args:
      task: What is learnt.
      people: The people of the clients that are trained: `data.people(clients)`.
      sampling_prob: Chance that a person is drawn in a round.
      method: How gradients are bounded, see `dp.clipped_gradient`.
      microbatch_size: How many of a client's people go through the model at once; None
        for all.

    Raises:
      ValueError: For people who are in two clients, a probability outside (0, 1], a
        task that keeps leaves, an unknown method, or sizes below 1.
    """
    roles.refuse_kept(
        task, "example_gradients takes one step, on leaves that all clients share"
    )
    checks.known("method", method, METHODS)
    if microbatch_size is not None:
        checks.at_least("microbatch_size", microbatch_size, 1)
    _check_people(people)
    everybody = sampling.poisson(people.count, sampling_prob)
    # The overflow probability is divided, as any client's draw may outgrow its arrays.
    own = sampling.poisson(
        people.most_people,
        sampling_prob,
        overflow_prob=sampling.OVERFLOW_PROBABILITY / people.num_clients,
    )

    def loss_of(sent: PyTree) -> base.TaskLoss:
        """The negative loss: the server takes an update for a direction of descent."""
        own_loss = roles.loss_of_part(task, sent)
        each = _of_people(own_loss) if people.most_each > 1 else own_loss
        return lambda key, part, those: -each(key, part, those)

    def bounded(mechanism: base.PrivacyMechanism, state: PyTree) -> base.ClientTrainer:
        is_private = mechanism.privacy_unit is not None

        def gradient(
            key: base.Key, sent: PyTree, those: PyTree, weights: Array
        ) -> tuple[PyTree, dict[str, Array]]:
            loss, part = loss_of(sent), roles.trainable(task, sent)
            if not is_private:
                total, found = dp.summed_gradient(loss)(key, part, those, weights)
                return trees.widened(total), {"loss": found}
            clipped = dp.clipped_total(
                loss, mechanism, method=method, microbatch_size=microbatch_size
            )
            keys = dp.example_keys(key, own.max_cohort)
            total, seen = clipped(keys, state, part, those, weights)
            return pairs.value(total), seen

        def init(
            key: base.Key, sent: PyTree, kept: PyTree, round_number: Int[Array, ""]
        ) -> PeopleState:
            like, looks = trees.widened(roles.trainable(task, sent)), ("loss", "people")
            if is_private:
                like = jax.eval_shape(mechanism.clip, key, state, like)
                looks = (*looks, "norm", "clipped")
            total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
            return PeopleState(total, dict.fromkeys(looks, jnp.float32(0)))

        def step(
            key: base.Key,
            sent: PyTree,
            state: PeopleState,
            client: base.ClientView,
            step_number: Int[Array, ""],
        ) -> PeopleState:
            keys = jax.random.split(jax.random.fold_in(key, step_number), 3)
            batch, _ = own.sample(keys[0], own.init(keys[1]))
            rows = _rows_of(client, batch.indices, people)
            weights = jnp.where(rows.known, batch.weights, 0.0)
            those: PyTree = trees.take(client.examples, rows.at)
            if people.most_each > 1:
                those = those, rows.there
            else:
                those = jax.tree.map(lambda leaf: leaf[:, 0], those)
            total, seen = gradient(keys[2], sent, those, weights)
            seen |= {"loss": -seen["loss"], "people": jnp.sum(weights)}
            told = {name: seen[name].astype(jnp.float32) for name in state.seen}
            # Where rows do not fit the results are NaN, so that leaving people out is
            # noticed.
            return PeopleState(*trees.where(rows.fits, (total, told), jnp.nan))

        def finish(
            sent: PyTree, state: PeopleState
        ) -> tuple[PyTree, PyTree, dict[str, Array]]:
            # The factor turns means over clients into means over all expected people.
            seen = {name: people.num_clients * v for name, v in state.seen.items()}
            number = seen.pop("people")
            told = {
                minibatch.LOOKS[name]: value / everybody.expected_cohort
                for name, value in seen.items()
            }
            return state.total, (), told | {"batch_size": number}

        return base.ClientTrainer(
            num_steps=lambda size: jnp.where(size > 0, 1, 0),
            keep=lambda params: (),
            init=init,
            step=step,
            finish=finish,
            model=lambda sent, kept: sent,
            event=minibatch.nothing_promised,
            max_client_size=people.most_rows,
            still_leaves=lambda: (),
        )

    plain = guards.returned(state=_STATE)(bounded)(dp.no_privacy(), ())
    return plain._replace(
        contributions=Contributions(
            "example",
            everybody,
            own.max_cohort,
            plain,
            bounded,
            lambda clients: _check_fits(people, clients),
        )
    )


def _of_people(loss: base.TaskLoss) -> base.TaskLoss:
    """The mean loss over each person's rows, for `(rows [n, most, ...], there)`."""

    def mean(key: base.Key, params: PyTree, examples: Any) -> Float[Array, " n"]:
        rows, there = examples
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
        losses = loss(key, params, flat)
        per_example.check_one_each("task.loss", losses, there.size)
        losses = losses.reshape(there.shape)
        heard = jnp.where(there, losses, jnp.zeros_like(losses))
        count = jnp.maximum(jnp.sum(there, axis=1), 1).astype(losses.dtype)
        return jnp.sum(heard, axis=1) / count

    return mean


def _rows_of(
    client: base.ClientView, wanted: Int[Array, " people"], people: data.People
) -> Rows:
    """The rows of a client's people, who are numbered in the order of their names."""
    size = client.size
    last = jnp.maximum(size - 1, 0)
    fits = size <= people.most_rows
    if not persons.has_names(client.examples):
        at = client.start + jnp.minimum(wanted, last)[:, None]
        return Rows(at, jnp.ones(at.shape, bool), wanted < size, fits)
    places = jnp.arange(people.most_rows, dtype=size.dtype)
    own = places < size
    names = client.examples[persons.LEAF][client.start + jnp.minimum(places, last)]
    order = jnp.lexsort((names, ~own))
    named = names[order]
    is_first = own & jnp.concatenate([jnp.ones(1, bool), named[1:] != named[:-1]])
    count = jnp.sum(is_first, dtype=size.dtype)
    # Rows that belong to nobody come after all others.
    number = jnp.where(own, jnp.cumsum(is_first) - 1, people.most_rows)
    begin, end = (jnp.searchsorted(number, wanted, side=s) for s in ("left", "right"))
    each = jnp.arange(people.most_each)
    there = each < (end - begin)[:, None]
    turns = begin[:, None] + jnp.where(there, each, 0)
    at = client.start + jnp.minimum(order[jnp.minimum(turns, places[-1])], last)
    run = places - jax.lax.cummax(jnp.where(is_first, places, 0))
    longest = jnp.max(jnp.where(own, run + 1, 0))
    fits &= (count <= people.most_people) & (longest <= people.most_each)
    return Rows(at, there, wanted < count, fits)


def _check_people(people: data.People) -> None:
    if people.shared is not None:
        person, one, other = people.shared
        raise ValueError(
            f"people: person {person} has rows in clients {one} and {other}, which "
            "bound the person separately, so that the person moves the sum too far; "
            "deal clients so that nobody is in two, or give different people different "
            "numbers"
        )


def _check_fits(people: data.People, clients: base.Clients) -> None:
    """Raises ValueError unless `people` are the people of the clients."""
    if not isinstance(clients.examples, data.storage.ByShard | data.storage.Generated):
        found = data.people(clients)
        _check_people(found)
        if found != people:
            raise ValueError(
                f"the trainer is built for {people}, but the clients have {found}; "
                "build the trainer with data.people(clients)"
            )
