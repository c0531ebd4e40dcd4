"""The subjects of the mechanism contract: processes that release noisy sums of rows.

A `Subject` runs a mechanism, or a whole training algorithm, on hand-made contributions
(`worlds`) and returns what the adversary sees: the noisy sum of every round. The run
goes through the production code with real sampling, clipping, sums and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from ppml_lab import arguments, base, checks, dp, pairs, trees
from ppml_lab.audit import canaries, worlds

Rows = Float[Array, "rows dimension"]
Present = Bool[Array, " rows"]


class Release(NamedTuple):
    """The numbers that a run shows.

    Attributes:
      values: Each round's noisy sum, over the sensitivity to adding or removing one.
      hidden: Each round's sum before noise, over the same sensitivity, with all
        released parts of the sum; no columns where the subject does not show it.
      extras: Everything else that is released.
      hidden_low: The low part, where the sum of `hidden` is a `pairs.Pair`.
      memory: Everything that is kept after each round and must be made of releases.
      unmoved: The moves, in each round, of what must not move.
    """

    values: Float[Array, "rounds dimension"]
    hidden: Float[Array, "rounds hidden"]
    extras: Float[Array, "rounds extras"]
    hidden_low: Float[Array, "rounds hidden"] | None = None
    memory: Float[Array, "rounds memory"] | None = None
    unmoved: Float[Array, "rounds unmoved"] | None = None


class Rounds(NamedTuple):
    """A subject's `run` that can begin anywhere: it runs the rounds of any numbers.

    Attributes:
      at: `(key, rows, present, numbers [rounds]) -> Release`, pure.
      num_rounds: The number of rounds of a run, which has the rounds from 0 on.
    """

    at: Callable[[base.Key, Rows, Present, Int[Array, " rounds"]], Release]
    num_rounds: int

    def __call__(self, key: base.Key, rows: Rows, present: Present) -> Release:
        return self.at(key, rows, present, jnp.arange(self.num_rounds))


class Subject(NamedTuple):
    """A private process and its claims.

    Attributes:
      run: `(key, rows, present) -> Release`, pure; `Rounds` where rounds far apart can
        be compared.
      event: The claimed event of all rounds together.
      clip_norm: The norm to which contributions are clipped (at first).
      noise: The claimed standard deviation of each coordinate of `values`, by round,
        in a round's fresh noise; None where noise is not Gaussian and added.
      additive: Whether noise is added without looking at the data, so that the same
        key shows the same noise on both neighbours.
      sampling_prob: The probability with which each row takes part, independently;
        None where the claim is not about sampling.
      cohort_size: The number of rows drawn for every round, where it is fixed.
      pattern: When a row may take part again, where this is the claim.
      mixing: The weights, in a round's noise, of its own fresh noise, of the previous
        round's fresh noise, and so on; the first is 1.
      modulus: The modulus at which values wrap around; None where they do not.
      grid: The step of the grid to which values are rounded, where the claim includes
        this rounding.
      steps: The number of releases that each value adds up.
      one_noise: From a key to the noise of a release, over its claimed standard
        deviation, so that millions can be drawn; None where noise cannot be drawn
        alone.
      crowd: `(key, rows [n, dimension], present [n]) -> (high, low)`, one release of
        any number of rows as a pair; None where there is none.
    """

    run: Callable[[base.Key, Rows, Present], Release]
    event: base.PrivacyEvent
    clip_norm: float
    noise: tuple[float, ...] | None
    additive: bool = True
    sampling_prob: float | None = None
    cohort_size: int | None = None
    modulus: float | None = None
    grid: float | None = None
    steps: int = 1
    one_noise: Callable[[base.Key], Float[Array, " dimension"]] | None = None
    pattern: base.Participation | None = None
    mixing: tuple[float, ...] = (1.0,)
    crowd: Callable[[base.Key, Rows, Present], tuple[Array, Array]] | None = None


@arguments.checked
def of_mechanism(
    mechanism: base.PrivacyMechanism,
    sampler: base.ClientSampler,
    num_rounds: int,
    *,
    tree: Callable[[Array], PyTree] = worlds.as_tree,
    dtype: Any = jnp.float32,
    noise: float | None = None,
    mixing: tuple[float, ...] = (1.0,),
) -> Subject:
    """A subject of a central mechanism: rows are sampled, clipped, summed, privatized.

    Clients' rows go through `clip`, examples' rows through `clip_examples`.

    Args:
      mechanism: A mechanism with Gaussian noise on the sum.
      sampler: A sampler of `worlds.NUM_ROWS` rows.
      num_rounds: Releases of a run; few, 2 to 16.
      tree: The form of a row for the mechanism, `worlds.as_tree` or `as_nested`.
      dtype: The type of the rows that are clipped, such as `jnp.bfloat16`.
      noise: Standard deviation of a round's fresh noise over the sensitivity, where the
        mechanism has no `noise_multiplier`.
      mixing: The mixing of correlated noise, as in `Subject`: (1, -lambda) where a
        round subtracts lambda times the previous round's noise.

    Raises:
      ValueError: If the mechanism promises nothing, or for another population.
    """
    check_central(mechanism, sampler, num_rounds, noise, mixing)
    if not isinstance(dtype, type | jnp.dtype | type(jnp.float32)):
        raise ValueError(f"dtype must be a float type, got {dtype!r}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a float type, got {dtype!r}")
    by_round = stated_noise(mechanism, num_rounds, tree, noise)

    def shaped(rows: Rows) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), tree(rows))

    def summed(key: base.Key, state: PyTree, rows: Rows, cohort: base.Cohort) -> PyTree:
        chosen = shaped(rows[cohort.indices])
        if mechanism.privacy_unit == "example":
            return mechanism.clip_examples(state, _per_example(chosen), cohort.weights)
        keys = jax.random.split(key, sampler.max_cohort)
        clip = jax.vmap(mechanism.clip, in_axes=(0, None, 0))
        clipped = trees.widened(clip(keys, state, chosen))
        heard = trees.where(cohort.weights > 0, clipped, 0.0)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), heard)

    def at(
        key: base.Key, rows: Rows, present: Present, numbers: Int[Array, " rounds"]
    ) -> Release:
        sampled = canaries.only(sampler, present)
        init_key, rounds_key = jax.random.split(key)

        def one_round(states: PyTree, number: Array) -> tuple[PyTree, Release]:
            state, sampler_state = states
            state = begun_at(state, number)
            keys = jax.random.split(jax.random.fold_in(rounds_key, number), 3)
            cohort, sampler_state = sampled.sample(keys[0], sampler_state)
            total = summed(keys[1], state, rows, cohort)
            bound = mechanism.norm_bound(state)
            noisy, after = mechanism.privatize(keys[2], state, total, bound)
            hidden = [trees.as_vector(part)[0] / bound for part in pairs.of(total)]
            moved = bound_moved(mechanism, state, after)
            return (after, sampler_state), Release(
                worlds.as_rows(noisy) / bound,
                hidden[0],
                moved,
                hidden[1],
                # A bound moves by a release of its own, which `values` do not show.
                floats(() if moved.size else after),
            )

        own_key = jax.random.fold_in(init_key, 1)
        states = first_state(mechanism, tree, own_key), sampled.init(init_key)
        return jax.lax.scan(one_round, states, numbers)[1]

    def crowd(key: base.Key, rows: Rows, present: Present) -> tuple[Array, Array]:
        del key
        state = first_state(mechanism, tree)
        weights = present.astype(jnp.float32)
        total = mechanism.clip_examples(state, _per_example(shaped(rows)), weights)
        high, low = (trees.as_vector(part)[0] for part in pairs.of(total))
        return high, low

    return Subject(
        Rounds(at, num_rounds),
        mechanism.event(sampler, num_rounds),
        first_clip_norm(mechanism),
        by_round,
        **stated_sampling(sampler, num_rounds),
        one_noise=noise_of(mechanism, noise, mixing),
        mixing=mixing,
        crowd=crowd if mechanism.privacy_unit == "example" else None,
    )


@arguments.checked
def of_local_mechanism(
    mechanism: base.PrivacyMechanism,
    clip_norm: float,
    num_rounds: int,
    *,
    noise: float | None = None,
    additive: bool = True,
) -> Subject:
    """A subject of a local mechanism: the messages of the client that owns row 0.

    Args:
      mechanism: A mechanism whose noise each client adds itself; its event is stated
        for replacing a client's data.
      clip_norm: The mechanism's bound.
      num_rounds: Messages of a run.
      noise: Standard deviation of the noise over clip_norm, where noise is Gaussian.
      additive: Whether noise is added without looking at the update.

    Raises:
      ValueError: For a clip norm or noise that is not positive and finite.
    """
    checks.positive("clip_norm", clip_norm)
    checks.at_least("num_rounds", num_rounds, 1)
    if noise is not None:
        checks.positive("noise", noise)
    sampler = _everyone()

    def message(key: base.Key, row: Array) -> Array:
        sent = mechanism.clip(key, first_state(mechanism), worlds.as_tree(row))
        return worlds.as_rows(sent) / clip_norm

    def at(
        key: base.Key, rows: Rows, present: Present, numbers: Int[Array, " rounds"]
    ) -> Release:
        del present
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        values = jax.vmap(message, (0, None))(keys, rows[0])
        return Release(values, values[:, :0], values[:, :0])

    def one_noise(key: base.Key) -> Array:
        assert noise is not None
        return message(key, jnp.zeros(worlds.DIMENSION)) / noise

    return Subject(
        Rounds(at, num_rounds),
        mechanism.event(sampler, num_rounds),
        clip_norm,
        None if noise is None else (noise,) * num_rounds,
        additive=additive,
        one_noise=None if noise is None else one_noise,
    )


def _per_example(rows: PyTree) -> dp.PerExample:
    from ppml_lab.dp import per_example

    losses = jnp.zeros(jax.tree.leaves(rows)[0].shape[0])
    return per_example.whole(losses, rows)


def bound_moved(
    mechanism: base.PrivacyMechanism, before: PyTree, after: PyTree
) -> Float[Array, " extras"]:
    """The move of a mechanism's bound, which its state tells beside the sum."""
    if not jax.tree.leaves(mechanism.report(after)):
        return jnp.zeros(0)
    ratio = jnp.asarray(mechanism.norm_bound(after)) / mechanism.norm_bound(before)
    return jnp.log(ratio)[None]


def stated_noise(
    mechanism: base.PrivacyMechanism,
    num_rounds: int,
    tree: Callable[[Array], PyTree] = worlds.as_tree,
    noise: float | None = None,
) -> tuple[float, ...]:
    """The stated noise multiplier of every release, or of its fresh noise."""
    if noise is not None:
        return (noise,) * num_rounds
    assert mechanism.noise_multiplier is not None
    state, found = first_state(mechanism, tree), []
    for number in range(num_rounds):
        found.append(float(mechanism.noise_multiplier(state)))
        key = jax.random.key(number)
        _, state = mechanism.privatize(key, state, _nothing(mechanism, tree), 1.0)
    return tuple(found)


def noise_of(
    mechanism: base.PrivacyMechanism,
    noise: float | None = None,
    mixing: tuple[float, ...] = (1.0,),
) -> Callable[[base.Key], Float[Array, " dimension"]]:
    """A function that draws a mechanism's noise over its stated standard deviation.

    The noise is the mechanism's release of nothing.
    """
    (fresh,) = stated_noise(mechanism, 1, noise=noise)
    bound = first_clip_norm(mechanism)
    stddev = fresh * bound * math.hypot(*mixing)

    def one_noise(key: base.Key) -> Array:
        # After enough releases for all parts of the noise to be present.
        state = begun_at(first_state(mechanism, key=key), len(mixing) - 1)
        noisy, _ = mechanism.privatize(key, state, _nothing(mechanism), bound)
        return worlds.as_rows(noisy) / stddev

    return one_noise


def begun_at(state: PyTree, releases: Any) -> PyTree:
    """A mechanism's state after `releases` releases, if the state counts releases."""
    if "releases" in getattr(state, "_fields", ()):
        return state._replace(releases=jnp.int32(releases))
    return state


def _nothing(
    mechanism: base.PrivacyMechanism,
    tree: Callable[[Array], PyTree] = worlds.as_tree,
) -> PyTree:
    """The sum of no messages."""
    row, state = tree(jnp.zeros(worlds.DIMENSION)), first_state(mechanism, tree)
    message = jax.eval_shape(mechanism.clip, jax.random.key(0), state, row)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), message)


def first_state(
    mechanism: base.PrivacyMechanism,
    tree: Callable[[Array], PyTree] = worlds.as_tree,
    key: base.Key | None = None,
) -> PyTree:
    """A mechanism's state before its first release of a sum of rows."""
    key = jax.random.key(0) if key is None else key
    return mechanism.init(key, tree(jnp.zeros(worlds.DIMENSION)))


def first_clip_norm(mechanism: base.PrivacyMechanism) -> float:
    """The bound on a contribution's norm in the first release."""
    return float(mechanism.norm_bound(first_state(mechanism)))


def floats(tree: PyTree) -> Float[Array, " n"]:
    """All floating-point numbers of a tree; keys and counts are not secrets."""
    leaves = [
        jnp.asarray(leaf, jnp.float32).reshape(-1)
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    ]
    return jnp.concatenate([jnp.zeros(0), *leaves])


def stated_sampling(sampler: base.ClientSampler, num_rounds: int) -> dict[str, Any]:
    """A sampler's claim about who takes part, as fields of a `Subject`."""
    if sampler.neighboring_relation == "replace_one":
        return {"cohort_size": round(sampler.expected_cohort)}
    pattern = sampler.participation(num_rounds)
    if pattern.sampling_prob is None:
        return {"pattern": pattern}
    return {"sampling_prob": sampler.expected_cohort / sampler.population}


def _everyone() -> base.ClientSampler:
    from ppml_lab.federated import everyone

    return everyone(worlds.NUM_ROWS)


def check_central(
    mechanism: base.PrivacyMechanism,
    sampler: base.ClientSampler,
    num_rounds: int,
    noise: float | None,
    mixing: tuple[float, ...],
) -> None:
    """Raises ValueError unless the arguments make a subject of central noise."""
    checks.at_least("num_rounds", num_rounds, 1)
    if noise is not None:
        checks.positive("noise", noise)
    if not mixing or mixing[0] != 1:
        raise ValueError(
            f"mixing must begin with 1 (the round's own fresh noise), got {mixing}"
        )
    states_noise = mechanism.noise_multiplier is not None or noise is not None
    if mechanism.trust != "central" or not states_noise:
        raise ValueError(
            "mechanism must add noise to the sum, with a noise_multiplier or the "
            "argument noise; take of_local_mechanism for noise at the clients"
        )
    if sampler.population != worlds.NUM_ROWS:
        raise ValueError(
            f"the sampler draws from {sampler.population} rows, but the worlds have "
            f"{worlds.NUM_ROWS}; build the sampler for worlds.NUM_ROWS"
        )
