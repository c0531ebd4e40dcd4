"""Central training: what accuracy would be if the data were in one place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, dp, guards, pairs, trees
from ppml_lab.data import storage
from ppml_lab.dp.gradients import METHODS
from ppml_lab.dp.per_example import Method as PerExampleMethod
from ppml_lab.federated import compatible, known, roles
from ppml_lab.federated.averaging import STATE, ServerState, start
from ppml_lab.federated.devices import add_up, check_mesh, gather, over_devices

_LOOKS = {"loss": "train_loss", "norm": "gradient_norm", "clipped": "clipped_share"}
"""Names, in a round's info, of the means over the examples of its steps."""


@arguments.checked
@guards.returned(state=STATE)
def central_sgd(
    task: base.Task,
    optimizer: optax.GradientTransformation,
    sampler: base.ClientSampler,
    *,
    mechanism: base.PrivacyMechanism | None = None,
    steps_per_round: int = 1,
    method: str | PerExampleMethod = "auto",
    microbatch_size: int | None = None,
    live_delta: float | None = None,
    mesh: Mesh | None = None,
) -> base.FederatedAlgorithm:
    """SGD, or DP-SGD, on all clients' examples pooled.

    Abadi et al., "Deep Learning with Differential Privacy", CCS 2016. A "round" is
    `steps_per_round` steps, so that runs compare with federated ones.

    **Guarantee:** with a private mechanism, examples (not clients) are protected as
    `event` states: `steps_per_round` compositions per round of the mechanism under the
    sampler's amplification. Whoever pools the data sees all of it. The scalars of a
    round (training loss; with a mechanism the mean `gradient_norm` before clipping and
    the `clipped_share` above the bound) are for the researcher and not private.

    Args:
      task: What is learnt.
      optimizer: Any optax optimizer. Leaves that it does not change are still clipped
        and noised with the others: freeze them by the task's roles instead.
      sampler: Draws the examples of each step; its population is the data set's.
      mechanism: An example-level mechanism; `dp.no_privacy()` by default.
      steps_per_round: Steps in one call of `round`.
      method: How examples are clipped, see `dp.clipped_gradient`.
      microbatch_size: Examples clipped at once on a device; None for all.
      live_delta: If given, every round's scalars have the `epsilon` spent so far at
        this delta, computed inside the compiled round (`dp.live`).
      mesh: Devices, along an axis "clients", that share a step's examples; one device
        if None. The sums are the same up to rounding.

    Raises:
      ValueError: For step counts below 1, a mechanism that protects clients, counts on
        other batches or does not account for the sampler's batches, a task that keeps
        leaves, or a mesh without that axis.
    """
    checks.at_least("steps_per_round", steps_per_round, 1)
    roles.refuse_kept(task, "central_sgd has no clients that could keep leaves")
    check_mesh(mesh)
    if isinstance(method, str):
        checks.known("method", method, METHODS)
    if microbatch_size is not None:
        checks.at_least("microbatch_size", microbatch_size, 1)
    mechanism = dp.no_privacy() if mechanism is None else mechanism
    if live_delta is not None:
        checks.probability("live_delta", live_delta, allow_one=False)
        mechanism = dp.live(mechanism, sampler, live_delta)
    _gradient(task, None, mechanism, method, microbatch_size)
    compatible.check_contributions(sampler, mechanism, 0.0)

    def part(
        device: Array,
        num_devices: int,
        key: base.Key,
        state: ServerState,
        clients: base.Clients,
        batch: base.Cohort,
    ) -> tuple[pairs.Pair, dict[str, Array]]:
        """A device's part of the sums over a batch."""
        n = batch.indices.shape[0]
        mine = device + num_devices * jnp.arange(-(-n // num_devices))
        rows = jnp.minimum(mine, n - 1)
        weights = jnp.where(mine < n, batch.weights[rows], 0.0)
        examples = trees.take(clients.examples, batch.indices[rows])
        keys = dp.example_keys(key, n)[rows]
        gradient = _gradient(task, state.params, mechanism, method, microbatch_size)
        learnt = roles.trainable(task, state.params)
        return gradient(keys, state.mechanism_state, learnt, examples, weights)

    @arguments.checked
    def init(key: base.Key) -> ServerState:
        return start(key, task, sampler, mechanism, optimizer.init)

    def step(
        key: base.Key, state: ServerState, clients: base.Clients
    ) -> tuple[ServerState, dict[str, Array]]:
        sample_key, grad_key, noise_key = jax.random.split(key, 3)
        batch, sampler_state = sampler.sample(sample_key, state.sampler_state)
        grad_sum, seen = over_devices(
            part, _joined, mesh, grad_key, state, clients, batch
        )
        noisy, mechanism_state = mechanism.privatize(
            noise_key,
            state.mechanism_state,
            grad_sum,
            mechanism.norm_bound(state.mechanism_state),
        )
        grads = jax.tree.map(lambda g: g / sampler.expected_cohort, noisy)
        learnt = roles.trainable(task, state.params)
        # Models in short floats step in float32 and are rounded once.
        wide = trees.widened(learnt)
        changes, opt_state = optimizer.update(trees.widened(grads), state.memory, wide)
        after = trees.cast_like(optax.apply_updates(wide, changes), learnt)
        info = {"batch_size": jnp.sum(batch.weights), "seen": seen}
        return state._replace(
            params=roles.merged(after, state.params),
            memory=opt_state,
            mechanism_state=mechanism_state,
            sampler_state=sampler_state,
        ), info

    @arguments.checked
    def one_round(
        key: base.Key, state: ServerState, clients: base.Clients
    ) -> tuple[ServerState, dict[str, Array]]:
        _check_population(sampler, clients)

        def scan_step(
            state: ServerState, number: Array
        ) -> tuple[ServerState, dict[str, Array]]:
            return step(jax.random.fold_in(key, number), state, clients)

        state, infos = jax.lax.scan(scan_step, state, jnp.arange(steps_per_round))
        means = jax.tree.map(lambda values: jnp.mean(values, axis=0), infos)
        # Means over all steps' examples together: batches differ in size and may be
        # empty.
        size, sums = means["batch_size"], means["seen"]
        info = {_LOOKS[name]: sums[name] / size for name in sums}
        info |= {"batch_size": size} | mechanism.report(state.mechanism_state)
        return state._replace(rounds_done=state.rounds_done + 1), info

    @arguments.checked
    def event(num_rounds: int) -> base.PrivacyEvent:
        from ppml_lab.dp import events

        checks.at_least("num_rounds", num_rounds, 1)
        stated = mechanism.event(sampler, num_rounds * steps_per_round)
        learnt = roles.dimension(task)
        return stated._replace(event=events.on_coordinates(stated.event, learnt))

    @arguments.checked
    def check(clients: base.Clients) -> None:
        _check_population(sampler, clients)
        known.check_clients(task, clients)

    return base.FederatedAlgorithm(
        init,
        one_round,
        event,
        cost=lambda: None,
        check=check,
        trust=mechanism.trust,
    )


def _joined(mine: tuple[pairs.Pair, PyTree]) -> tuple[pairs.Pair, PyTree]:
    grad_sum, seen = mine
    return pairs.sum_over(gather(grad_sum)), add_up(seen)


def _gradient(
    task: base.Task,
    whole: PyTree,
    mechanism: base.PrivacyMechanism,
    method: str | PerExampleMethod,
    microbatch_size: int | None,
) -> dp.ClippedTotal:
    """The gradient of the trainable part of a whole model, summed over a batch."""
    loss = roles.loss_of_part(task, whole)
    if mechanism.privacy_unit is not None:
        return dp.clipped_total(
            loss, mechanism, method=method, microbatch_size=microbatch_size
        )
    plain = dp.summed_gradient(loss)

    def gradient(
        keys: base.Key, state: PyTree, params: PyTree, examples: PyTree, weights: Array
    ) -> tuple[pairs.Pair, dict[str, Array]]:
        total, loss_sum = plain(keys[0], params, examples, weights)
        return pairs.of(total), {"loss": loss_sum}

    return gradient


def _check_population(sampler: base.ClientSampler, clients: base.Clients) -> None:
    if isinstance(clients.examples, storage.ByShard | storage.Generated):
        raise ValueError(
            "central training draws from all examples, but clients has sharded or "
            "generated examples; give clients whose examples are stored whole"
        )
    if clients.held_out is not None:
        raise ValueError(
            "central training draws from all examples, but clients has some held out; "
            "give clients without held_out"
        )
    num_examples = jax.tree.leaves(clients.examples)[0].shape[0]
    if sampler.population != num_examples:
        raise ValueError(
            f"the sampler draws from {sampler.population} examples, but the data set "
            f"has {num_examples}; build the sampler for {num_examples}"
        )
