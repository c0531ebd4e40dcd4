"""Subjects of the mechanism contract: whole training algorithms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, PyTree

from ppml_lab import arguments, base, checks, dp, federated, smpc
from ppml_lab.audit import canaries, worlds
from ppml_lab.audit.subjects import (
    Present,
    Release,
    Rounds,
    Rows,
    Subject,
    begun_at,
    bound_moved,
    check_central,
    first_clip_norm,
    first_state,
    floats,
    noise_of,
    stated_noise,
    stated_sampling,
)
from ppml_lab.federated.simulate import run_chunk
from ppml_lab.smpc.computing import private

_FROZEN = 3
_HUGE = 1e7
"""A gradient far above `worlds.FAR`: if counted, it uses up the whole clip norm."""


@arguments.checked
def of_algorithm(
    make: Callable[[base.Task, base.ClientSampler], base.FederatedAlgorithm],
    mechanism: base.PrivacyMechanism,
    sampler: base.ClientSampler,
    num_rounds: int,
    *,
    aggregator: base.SecureAggregator | None = None,
    also_seen: Callable[[Any], Array] = lambda state: jnp.zeros(0),
    steps_per_round: int = 1,
    tree: Callable[[Array], PyTree] = worlds.as_tree,
    frozen: bool = False,
    noise: float | None = None,
    mixing: tuple[float, ...] = (1.0,),
) -> Subject:
    """A whole training algorithm, seen through the model after every round.

    The algorithm learns a linear loss, whose gradient at an example is the example:
    with one example per client, one local step and rates of 1, a round moves the model
    by minus the noisy mean of the rows. Rounds run as `federated.simulate` runs them.

    Args:
      make: Builds the algorithm from the audit's task and sampler, with rates of 1;
        for `crowd` also with a sampler of everyone of any population.
      mechanism: The mechanism that the algorithm was built with: its claims of norms
        and noise.
      sampler: A sampler of `worlds.NUM_ROWS` rows.
      num_rounds: The rounds of a run.
      aggregator: The secure sum that the algorithm was built with, `smpc.clear()` by
        default.
      also_seen: From the state after a round to what the server knows beside the model,
        scaled so that a round moves it by a second noisy mean, such as SCAFFOLD's
        control times population over expected cohort. All claims of norms and noise are
        then claims of both together.
      steps_per_round: The number of releases in a round, whose sum the model shows; for
        a mechanism whose norm bound and noise are constant.
      tree: The form of the model, `worlds.as_tree` or `as_nested`.
      frozen: Whether the model has a leaf that the task's roles call constant, with
        gradients far larger than all others.
      noise: As in `of_mechanism`.
      mixing: As in `of_mechanism`, between rounds, each of which is then one release.

    Raises:
      ValueError: If the mechanism promises nothing, for another population, or for
        correlated releases within a round.
    """
    check_central(mechanism, sampler, num_rounds, noise, mixing)
    if len(mixing) > 1 and steps_per_round > 1:
        raise ValueError(
            f"mixing needs steps_per_round 1, got {steps_per_round}; mixing acts "
            "between rounds of one release"
        )
    checks.at_least("steps_per_round", steps_per_round, 1)
    clear = aggregator is None
    aggregator = smpc.clear() if aggregator is None else aggregator
    task = linear_task(tree, frozen=frozen)
    built = make(task, sampler)
    dimension = _message_size(mechanism, tree)
    stated = stated_noise(mechanism, num_rounds * steps_per_round, tree, noise)
    by_round = np.square(stated).reshape(num_rounds, steps_per_round).sum(axis=1)

    def at(
        key: base.Key, rows: Rows, present: Present, numbers: Int[Array, " rounds"]
    ) -> Release:
        algorithm = make(task, canaries.only(sampler, present))
        clients = _one_each(rows)
        init_key, rounds_key = jax.random.split(key)

        def one_round(state: Any, number: Array) -> tuple[Any, Release]:
            if "rounds_done" in getattr(state, "_fields", ()):
                state = state._replace(
                    rounds_done=number,
                    mechanism_state=begun_at(
                        state.mechanism_state, number * steps_per_round
                    ),
                )
            after, _ = run_chunk(rounds_key, algorithm, state, clients, number, 1)
            bound = mechanism.norm_bound(state.mechanism_state)
            session = _session(mechanism, state.mechanism_state, aggregator, sampler)
            sensitivity = aggregator.sensitivity(session, bound, dimension)
            scale = sampler.expected_cohort / sensitivity
            second = also_seen(after) - also_seen(state)
            change = jnp.concatenate([_model_change(state, after), second])
            extras = bound_moved(
                mechanism, state.mechanism_state, after.mechanism_state
            )
            return after, Release(
                change * scale,
                change[:0],
                extras,
                memory=_memory(after, with_mechanism=not extras.size),
                unmoved=_frozen_change(state, after) if frozen else None,
            )

        return jax.lax.scan(one_round, algorithm.init(init_key), numbers)[1]

    def crowd(key: base.Key, rows: Rows, present: Present) -> tuple[Array, Array]:
        everyone = federated.everyone(len(rows))
        algorithm = make(task, canaries.only(everyone, present))
        state = algorithm.init(key)
        after, _ = algorithm.round(key, state, _one_each(rows))
        values = _model_change(state, after) * len(rows)
        return values, jnp.zeros_like(values)

    # Others are built for one number of contributions, or sum in integers.
    has_crowd = clear and mechanism.expected_contributions is None
    return Subject(
        Rounds(at, num_rounds),
        built.event(num_rounds),
        first_clip_norm(mechanism),
        tuple(np.sqrt(by_round).tolist()),
        **stated_sampling(sampler, num_rounds),
        steps=steps_per_round,
        one_noise=noise_of(mechanism, noise, mixing),
        mixing=mixing,
        crowd=crowd if has_crowd and steps_per_round == 1 else None,
    )


def linear_task(
    tree: Callable[[Array], PyTree] = worlds.as_tree, *, frozen: bool = False
) -> base.Task:
    """The task whose loss is the inner product of example and parameters.

    Parameters start at zero. A constant leaf, where there is one, adds its inner
    product with huge numbers.
    """

    def init(key: base.Key) -> PyTree:
        del key
        params = tree(jnp.zeros(worlds.DIMENSION))
        return params | {"frozen": jnp.ones(_FROZEN)} if frozen else params

    def loss(key: base.Key, params: PyTree, examples: PyTree) -> Float[Array, " n"]:
        del key
        rows = worlds.as_rows(examples)
        losses = rows @ worlds.as_rows(params)
        if frozen:
            losses = losses + _HUGE * jnp.sum(params["frozen"])
        return losses

    def roles(params: PyTree) -> PyTree:
        named = jax.tree.map(lambda leaf: "trainable", params)
        return named | {"frozen": "constant"}

    return base.Task(
        init,
        loss,
        lambda params, examples: {"loss": loss(jax.random.key(0), params, examples)},
        roles if frozen else None,
    )


@arguments.checked
def of_trainer(
    make: Callable[[base.Task], base.ClientTrainer],
    mechanism: base.PrivacyMechanism,
    sampling_prob: float,
    num_rounds: int,
) -> Subject:
    """A client's own DP-SGD on its examples, seen through its message in every round.

    The client has the present rows as examples and takes one local step per round; its
    number of examples is public, as `federated.local_dp_sgd` states.

    Args:
      make: Builds the trainer from the audit's task, with a rate of 1, one step and
        room for `worlds.NUM_ROWS` examples.
      mechanism: The mechanism that the trainer was built with.
      sampling_prob: The probability that an example of the client is drawn.
      num_rounds: The rounds of a run.

    Raises:
      ValueError: For a probability outside (0, 1], or no rounds.
    """
    checks.probability("sampling_prob", sampling_prob, allow_one=True)
    checks.at_least("num_rounds", num_rounds, 1)
    task = linear_task()
    trainer = make(task)
    algorithm = federated.averaging(task, trainer, federated.everyone(1))
    bound = first_clip_norm(mechanism)

    def at(
        key: base.Key, rows: Rows, present: Present, numbers: Int[Array, " rounds"]
    ) -> Release:
        # A client's examples come without gaps, the canary last, so that the others
        # keep their places; a client without examples keeps a zero.
        size = jnp.maximum(jnp.sum(present, dtype=jnp.int32), 1)
        examples = worlds.as_tree(rows[::-1][jnp.argsort(~present[::-1])])
        clients = base.Clients(examples, jnp.stack([jnp.int32(0), size]))
        scale = sampling_prob * size.astype(jnp.float32) / bound
        init_key, rounds_key = jax.random.split(key)

        def one_round(state: Any, number: Array) -> tuple[Any, Release]:
            state = state._replace(rounds_done=number)
            after, _ = run_chunk(rounds_key, algorithm, state, clients, number, 1)
            values = _model_change(state, after) * scale
            return after, Release(values, values[:0], values[:0])

        return jax.lax.scan(one_round, algorithm.init(init_key), numbers)[1]

    return Subject(
        Rounds(at, num_rounds),
        algorithm.event(num_rounds),
        bound,
        stated_noise(mechanism, num_rounds),
        sampling_prob=sampling_prob,
        one_noise=noise_of(mechanism),
    )


@arguments.checked
def of_shared_training(
    protocol: private.Protocol,
    clip_norm: float,
    noise_multiplier: float,
    num_steps: int,
) -> Subject:
    """Training on shares with the parties' own noise, seen through the opened model.

    The gradient is the sum of the rows, which their owner clips. Only the parameters
    after `num_steps` steps are opened; they show the sum of `num_steps` releases. The
    claim covers all releases, so with more than one step it covers more than is seen.

    Args:
      protocol: The protocol by which the parties compute.
      clip_norm: The norm to which rows are clipped before they are shared.
      noise_multiplier: The stddev of one honest party's noise over `clip_norm`.
      num_steps: Steps of training.

    Raises:
      ValueError: For noise that is not positive, and as `training_on_shares` does.
    """
    checks.positive("noise_multiplier", noise_multiplier)
    training = federated.training_on_shares(
        protocol,
        lambda params, examples: worlds.as_tree(jnp.sum(examples, axis=0)),
        lambda parts: parts["owner"],
        num_steps=num_steps,
        learning_rate=worlds.NUM_ROWS,
        num_examples=worlds.NUM_ROWS,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        num_honest=protocol.scheme.num_parties,
        dimension=worlds.DIMENSION,
    )
    # Two steps of rounding for each coordinate.
    rounding = 2 * np.sqrt(worlds.DIMENSION) / 2.0**protocol.fraction_bits
    sensitivity = clip_norm + rounding

    def run(key: base.Key, rows: Rows, present: Present) -> Release:
        clipped, _ = jax.vmap(dp.clip_by_global_norm, (0, None))(rows, clip_norm)
        heard = jnp.where(present[:, None], clipped, 0.0)
        start = worlds.as_tree(jnp.zeros(worlds.DIMENSION))
        params = training.train(key, start, {"owner": heard})
        values = worlds.as_rows(params)[None] / sensitivity
        return Release(values, values[:, :0], values[:, :0])

    return Subject(
        run,
        training.privacy_event,
        clip_norm,
        (training.noise_stddev * num_steps**0.5 / sensitivity,),
        grid=2.0**-protocol.fraction_bits / sensitivity,
        steps=num_steps,
    )


def _one_each(rows: Rows) -> base.Clients:
    """A client for every row."""
    return base.Clients(
        worlds.as_tree(rows), jnp.arange(len(rows) + 1, dtype=jnp.int32)
    )


def _model_change(before: Any, after: Any) -> Float[Array, " dimension"]:
    return worlds.as_rows(after.params) - worlds.as_rows(before.params)


def _frozen_change(before: Any, after: Any) -> Float[Array, " frozen"]:
    return after.params["frozen"] - before.params["frozen"]


def _memory(state: Any, *, with_mechanism: bool) -> Float[Array, " memory"]:
    """The floats of a state, without what clients keep and who was drawn."""
    fields = getattr(state, "_fields", ("params",))
    own = {"kept", "sampler_state"} | set(() if with_mechanism else ["mechanism_state"])
    return floats([getattr(state, name) for name in fields if name not in own])


def _session(
    mechanism: base.PrivacyMechanism,
    mechanism_state: PyTree,
    aggregator: base.SecureAggregator,
    sampler: base.ClientSampler,
) -> PyTree:
    """The session of a round in which all are invited and report."""
    everyone = jnp.ones(sampler.max_cohort, bool)
    bound = mechanism.message_bound(mechanism_state)
    return aggregator.begin(jax.random.key(0), everyone, everyone, bound)


def _message_size(
    mechanism: base.PrivacyMechanism, tree: Callable[[Array], PyTree]
) -> int:
    """The number of coordinates of a client's message under this mechanism."""
    row = tree(jnp.zeros(worlds.DIMENSION))
    message = jax.eval_shape(
        lambda key: mechanism.clip(key, first_state(mechanism, tree), row),
        jax.random.key(0),
    )
    return sum(leaf.size for leaf in jax.tree.leaves(message))
