"""Training on secret shares: several owners' data, computing parties that see none of
it, and central differential privacy without a trusted server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, random, trees
from ppml_lab.dp import events
from ppml_lab.smpc import sharing, transcript
from ppml_lab.smpc.computing import private

Gradient = Callable[[PyTree, PyTree], PyTree]
"""`(params, examples)`: the sum of the examples' gradients, a pure JAX function."""


class OnShares(NamedTuple):
    """The parties' state between steps.

    Attributes:
      params: Shares of the parameters.
      examples: Shares of all owners' examples, joined.
    """

    params: PyTree
    examples: PyTree


class SharedTraining(NamedTuple):
    """Training on shares; make it with `training_on_shares`.

    Attributes:
      train: `(key, params, parts)`: the trained parameters in the clear. `parts` has
        each owner's float arrays under the owner's name; `params` is known to all.
      begin: `(key, params, parts)`: what the parties hold before the first step.
      step: `(key, state, number)`: what the parties hold after step `number`, which
        counts from 0; `key` is that of the whole training.
      reveal: `(state)`: the parameters in the clear, only for the end.
      in_the_clear: `(params, parts)`: the result of the same steps on pooled floats
        without noise, as a reference for shares and fixed point.
      privacy_event: The event for an accountant.
      noise_stddev: Stddev of all parties' noise together, per coordinate of the summed
        gradient.
    """

    train: Callable[[base.Key, PyTree, Mapping[Any, PyTree]], PyTree]
    begin: Callable[[base.Key, PyTree, Mapping[Any, PyTree]], OnShares]
    step: Callable[[base.Key, OnShares, Array], OnShares]
    reveal: Callable[[OnShares], PyTree]
    in_the_clear: Callable[[PyTree, Mapping[Any, PyTree]], PyTree]
    privacy_event: base.PrivacyEvent
    noise_stddev: float


@arguments.checked
def training_on_shares(
    protocol: private.Protocol,
    gradient: Gradient,
    join: Callable[[Mapping[Any, PyTree]], PyTree],
    *,
    num_steps: int,
    learning_rate: float,
    num_examples: int,
    batch_size: int | None = None,
    clip_norm: float | None = None,
    noise_multiplier: float = 0.0,
    num_honest: int | None = None,
    dimension: int = 0,
) -> SharedTraining:
    """Gradient descent by computing parties on the data of owners.

    Owners secret-share their examples, the parties compute every step on shares, and
    only the last parameters are opened. With noise, each party adds its own Gaussian
    noise to each step's sum, shared like any input, so that nobody knows the whole
    noise. Noise is shared before there are inputs: it takes bytes offline, and no
    round.

    **Guarantee:** semi-honest parties learn the parameters at the end, and shapes. With
    noise these parameters are differentially private for adding or removing one
    example, by `privacy_event`, against everybody but the owners, and against
    coalitions that leave out at least `num_honest` of the computing parties: the noise
    of `num_honest` parties has the stated stddev, and the others' noise comes on top.
    Larger coalitions reconstruct every secret, the examples themselves, whatever the
    noise. The guarantee needs `gradient` to sum examples' gradients of L2 norm at most
    `clip_norm` **by construction**, such as features that their owners clip times a
    residual in [-1, 1]; nothing checks this on shares. The rounding of values and
    products to fixed point is in the sensitivity (`dimension` coordinates, two steps
    each); each party's rounding of its own noise is not accounted for. All examples
    take part in every step: the parties know the batches, so that sampling would
    amplify nothing. `privacy_event` does not cover what was computed from all rows
    before, such as a mean to standardise by: features are taken as they are. With a
    truncation that rounds at random, the parties' views and the opened values together
    may show bits that were cut (`smpc.truncation`). The emulation's noise is not
    cryptographic.

    Args:
      protocol: The protocol by which the parties compute.
      gradient: The sum of the examples' gradients.
      join: Makes examples, with their axis in front, from the owners' parts by
        concatenating rows or columns.
      num_steps: Steps of gradient descent.
      learning_rate: Learning rate of a step along the mean gradient.
      num_examples: Number of all owners' examples; `train` checks it.
      batch_size: Consecutive examples per step; all by default, and with noise. Where
        it does not divide the number of examples, the last batch of a pass repeats some
        of the batch before.
      clip_norm: Largest norm of an example's gradient; needed with noise.
      noise_multiplier: Stddev over `clip_norm`; 0 for no noise.
      num_honest: Number of parties whose noise alone has to suffice; by default as many
        as the largest coalition that reconstructs nothing leaves out: 2 of 3 replicated
        parties, 1 of additive ones.
      dimension: Coordinates of the gradient and of the parameters; needed with noise.
        `train` checks it.

    Raises:
      ValueError: For bad arguments, or fewer honest parties than keep a coalition from
        reconstructing everything; `train` and `in_the_clear`, for owners with another
        number of examples, parameters of another dimension, or a gradient of other
        shapes than theirs.
    """
    checks.at_least("num_steps", num_steps, 1)
    checks.positive("learning_rate", learning_rate)
    checks.at_least("num_examples", num_examples, 1)
    checks.non_negative("noise_multiplier", noise_multiplier)
    batch = num_examples if batch_size is None else batch_size
    checks.at_least("batch_size", batch, 1)
    if batch > num_examples:
        raise ValueError(
            f"batch_size must be from 1 to num_examples = {num_examples}, got {batch}"
        )
    num_parties = protocol.scheme.num_parties
    num_honest = _honest(protocol, num_honest)
    if clip_norm is not None:
        checks.positive("clip_norm", clip_norm)
    checks.at_least("dimension", dimension, 0)
    stddev, effective = 0.0, 0.0
    if noise_multiplier:
        if batch != num_examples:
            raise ValueError(
                f"batch_size {batch} with noise is not allowed, as the parties know "
                "the batches and all examples have to take part; leave batch_size out"
            )
        if clip_norm is None:
            raise ValueError(
                "clip_norm is needed with noise; give the largest norm of a gradient"
            )
        checks.at_least("dimension", dimension, 1)
        stddev = noise_multiplier * clip_norm
        steps = 2 * np.sqrt(dimension) / 2.0**protocol.fraction_bits
        effective = stddev / (clip_norm + steps)
    event = base.PrivacyEvent(
        events.compose(events.gaussian(effective), num_steps),
        "add_or_remove_one",
        "example" if noise_multiplier else None,
        num_examples,
    )
    per_party = float(stddev / np.sqrt(num_honest))
    rate = np.float32(learning_rate / batch)
    num_batches = -(-num_examples // batch)

    def seed_of(key: base.Key) -> Array:
        return random.seed(jax.random.fold_in(key, 0))

    def first_row(number: Array) -> Array:
        # The last batch of a pass reaches back where batches do not divide the
        # examples.
        return jnp.minimum((number % num_batches) * batch, num_examples - batch)

    def descend(params: PyTree, total: PyTree) -> PyTree:
        return jax.tree.map(lambda p, g: p - rate * g, params, total)

    def check(params: PyTree, parts: Mapping[Any, PyTree]) -> None:
        trees.check_arrays("params", params)
        trees.check_arrays("parts", dict(parts))
        _check_sizes(gradient, join, num_examples, dimension, params, parts)

    @arguments.checked
    def begin(key: base.Key, params: PyTree, parts: Mapping[Any, PyTree]) -> OnShares:
        check(params, parts)
        seed = seed_of(key)
        shared = {
            owner: private.share(protocol, random.child(seed, n), part, owner=owner)
            for n, (owner, part) in enumerate(parts.items())
        }
        examples = private.evaluate(protocol, random.child(seed, 0, 1), join, shared)
        return OnShares(private.constant(protocol, params), examples)

    def noised(seed: Array, total: PyTree) -> PyTree:
        shapes = jax.tree.map(
            lambda shared: jax.ShapeDtypeStruct(sharing.shape_of(shared), jnp.float32),
            total,
            is_leaf=private.is_shared,
        )
        with transcript.scope("noise"):
            for party in range(num_parties):
                own = random.child(seed, 1, party)
                noise = _noise(random.child(own, 0), shapes, per_party)
                shared_noise = private.share(
                    protocol,
                    random.child(own, 1),
                    noise,
                    owner=party,
                    offline=True,
                )
                total = private.add(total, shared_noise)
        return total

    @arguments.checked
    def step(key: base.Key, state: OnShares, number: Array) -> OnShares:
        own = random.child(seed_of(key), number, 2)
        rows = state.examples
        if num_batches > 1:
            rows = private.rows(rows, first_row(number), batch)
        total = private.evaluate(
            protocol, random.child(own, 0), gradient, state.params, rows
        )
        if stddev:
            total = noised(own, total)
        new = private.evaluate(
            protocol, random.child(own, 2), descend, state.params, total
        )
        return state._replace(params=new)

    def reveal(state: OnShares) -> PyTree:
        return private.reveal(protocol, state.params, name="parameters")

    @arguments.checked
    def train(key: base.Key, params: PyTree, parts: Mapping[Any, PyTree]) -> PyTree:
        start = begin(key, params, parts)

        def one(params: PyTree, number: Array) -> tuple[PyTree, None]:
            return step(key, start._replace(params=params), number).params, None

        with transcript.scope("step", repeat=num_steps):
            final, _ = lax.scan(one, start.params, jnp.arange(num_steps))
        return reveal(start._replace(params=final))

    @arguments.checked
    def in_the_clear(params: PyTree, parts: Mapping[Any, PyTree]) -> PyTree:
        check(params, parts)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
        examples = jax.tree.map(jnp.asarray, join(parts))

        def one(params: PyTree, number: Array) -> tuple[PyTree, None]:
            rows = trees.take(examples, first_row(number) + jnp.arange(batch))
            return descend(params, gradient(params, rows)), None

        return lax.scan(one, params, jnp.arange(num_steps))[0]

    noise_stddev = float(stddev * np.sqrt(num_parties / num_honest))
    return SharedTraining(train, begin, step, reveal, in_the_clear, event, noise_stddev)


def _honest(protocol: private.Protocol, num_honest: int | None) -> int:
    """The number of parties whose noise alone has to suffice."""
    scheme = protocol.scheme
    least = scheme.num_parties - scheme.threshold + 1
    if num_honest is None:
        return least
    checks.at_least("num_honest", num_honest, 1)
    if not least <= num_honest <= scheme.num_parties:
        raise ValueError(
            f"num_honest must lie in [{least}, {scheme.num_parties}], got "
            f"{num_honest}; with {least - 1} honest of {scheme.num_parties} parties, "
            f"the other {scheme.threshold} reconstruct every secret; leave num_honest "
            f"out for {least}"
        )
    return num_honest


def _check_sizes(
    gradient: Gradient,
    join: Callable[[Mapping[Any, PyTree]], PyTree],
    num_examples: int,
    dimension: int,
    params: PyTree,
    parts: Mapping[Any, PyTree],
) -> None:
    """Raises ValueError unless sizes and shapes are those given at the build."""

    def like(tree: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.float32), tree
        )

    examples = jax.eval_shape(join, like(dict(parts)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(examples):
        if leaf.shape[:1] != (num_examples,):
            raise ValueError(
                f"num_examples is {num_examples}, but the joined "
                f"examples{jax.tree_util.keystr(path)} have shape {list(leaf.shape)}; "
                "build the training with num_examples of all owners together"
            )
    found = sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(params))
    if dimension and found != dimension:
        raise ValueError(
            f"dimension is {dimension}, but the parameters have {found} coordinates, "
            f"and fixed point rounds each; build the training with dimension={found}"
        )
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    made = jax.tree.leaves(jax.eval_shape(gradient, like(params), examples))
    if [leaf.shape for leaf in made] != shapes:
        raise ValueError(
            "gradient must return the sum of the examples' gradients, with the shapes "
            f"of params, {shapes}, got {[leaf.shape for leaf in made]}"
        )


def _noise(seed: Array, like: PyTree, stddev: float) -> PyTree:
    """Gaussian noise for each coordinate of a tree."""
    leaves, tree = jax.tree.flatten(like)
    drawn = [
        random.normal(random.child(seed, place), leaf.size).reshape(leaf.shape)
        for place, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, [np.float32(stddev) * leaf for leaf in drawn])
