"""Prediction of a token at every place of a sequence, as by language models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Integer, PyTree

from ppml_lab import arguments, base, checks, trees
from ppml_lab.models.tasks import supervised


class Tokens(NamedTuple):
    """The token to predict at each place, and its weight."""

    labels: Integer[Array, "n length"]
    weights: Float[Array, "n length"]


@arguments.checked
def sequence(
    init: base.TaskInit,
    apply: Callable[[PyTree, Array], Float[Array, "n length tokens"]],
    *,
    roles: Callable[[PyTree], PyTree] | None = None,
    train: Callable[[PyTree, Array], tuple[Float[Array, "n length tokens"], PyTree]]
    | None = None,
) -> base.Task:
    """Prediction of a token at every place of `{"x": int [n, length], "y": int [n,
    length]}`.

    Places that are padding need tokens "x" that the model knows. `models.CharLSTM` and
    `models.Transformer` know any integer there; most embeddings make NaN of a number
    that is no token, which spoils the sequence's gradient.

    An example is a sequence. Its loss is the weighted mean of the cross-entropies of
    its own tokens, so that long sequences take no more of a private sum than short
    ones. Weights are the examples' "weights" `[n, length]`, or ones without them: 0 for
    padding, whose label may be anything. An example whose weights are all 0 has loss 0
    and gradient 0.

    Means over a test set, or over a client's examples, weigh each example by the sum of
    its weights (`weigh`): they are means over tokens. The loss per token is in nats;
    its exponential is the perplexity.

    Args:
      init: Makes parameters from a key; the trainable ones are floats.
      apply: Maps parameters and tokens `[n, length]` to logits `[n, length, tokens]`.
        The model has to ensure that the logits at a place see no later token.
      roles: See `classification`.
      train: See `classification`.

    Returns:
      A task whose metrics are `loss` and `accuracy`. They are NaN where a label that
      counts is no token, a weight is negative or not finite, or a logit that counts is
      not finite. Its functions raise ValueError for examples, logits and parameters of
      other shapes or types, and, called on the host, for such labels and weights.

    Raises:
    ValueError: If init or apply is not a function.
    """
    return supervised.task(supervised.Model(init, apply, roles, train), _TOKENS)


@arguments.checked
def flax_sequence(
    module: nn.Module,
    length: int,
    *,
    roles: Callable[[PyTree], PyTree] | None = None,
    training: nn.Module | None = None,
) -> base.Task:
    """A task of `sequence` by a flax module whose inputs are tokens int32 `[n,
    length]`.

    Args:
      module: The module, called with tokens alone; gives logits `[n, length, tokens]`.
      length: Length of a sequence.
      roles: See `flax_classification`.
      training: See `flax_classification`.

    Raises:
      ValueError: If length is below 1.
    """
    checks.at_least("length", length, 1)
    example = jax.ShapeDtypeStruct((length,), jnp.int32)
    model = supervised.of_flax(module, example, roles, training)
    return supervised.task(model, _TOKENS)


def _read(examples: PyTree) -> tuple[Any, Tokens]:
    x, y = supervised.inputs_and_labels(examples)
    for name, tokens in (("x", x), ("y", y)):
        if tokens.dtype.kind not in "iu" or len(tokens.shape) != 2:
            raise ValueError(
                f'"{name}" must hold integer tokens [n, length], got '
                f"{supervised.shown(tokens)}; number them from 0, and cut or pad "
                "sequences to one length, with weights of 0 for padding"
            )
    if x.shape != y.shape:
        raise ValueError(
            f'"x" and "y" must be tokens of the same shape, got {list(x.shape)} and '
            f"{list(y.shape)}; y has the token to predict at each position of x"
        )
    return x, Tokens(y, _weights(examples, y.shape))


def _weights(examples: PyTree, shape: tuple[int, ...]) -> Any:
    """The examples' weights `[n, length]` as float32."""
    if "weights" not in examples:
        return np.ones(shape, np.float32)
    weights = supervised.as_array(examples["weights"])
    if weights.shape != shape or not _is_real(weights.dtype):
        raise ValueError(
            f'"weights" must be numbers {list(shape)}, one for each token of "y", got '
            f"{supervised.shown(weights)}; give 1 for a token that counts, and 0 for "
            "padding"
        )
    if not checks.is_traced(weights):
        values = np.asarray(weights, np.float32)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise ValueError(
                f'"weights" must be finite and not negative, got {values[bad][0]} in '
                f"row {np.argwhere(bad)[0][0]}"
            )
    return jnp.asarray(weights).astype(jnp.float32)


def _is_real(dtype: Any) -> bool:
    if dtype.kind in "bm":  # time spans count as integers in numpy
        return dtype.kind == "b"
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def _weigh(examples: PyTree) -> Float[Array, " n"]:
    _, tokens = _read(examples)
    return jnp.sum(tokens.weights, axis=1)


def _fitted(logits: Any, tokens: Tokens) -> tuple[Array, Tokens]:
    """Checks logits and tokens and returns both, with label 0 where a label is no
    token, and weight NaN where a weight is invalid or its label is no token.
    """
    labels, weights = tokens
    shape = tuple(logits.shape)
    if len(shape) != 3 or shape[:2] != labels.shape or shape[2] < 2:
        raise ValueError(
            "apply must give logits of 2 or more tokens for every position, [n, "
            f'length, tokens], got {list(shape)} for "y" {list(labels.shape)}'
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"apply must give real logits, got {logits.dtype}")
    if not any(map(checks.is_traced, tokens)):
        values = np.asarray(labels)
        bad = (np.asarray(weights) > 0) & ((values < 0) | (values >= shape[2]))
        if bad.any():
            raise ValueError(
                f'"y" must lie in [0, {shape[2]}), as the model has {shape[2]} logits, '
                f"got {values[bad][0]} in row {np.argwhere(bad)[0][0]}; give padding a "
                "weight of 0, or give the model more logits"
            )
    labels = jnp.asarray(labels)
    labels = labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
    is_known = (labels >= 0) & (labels < shape[2])
    valid = jnp.isfinite(weights) & (weights >= 0) & (is_known | (weights == 0))
    weights = jnp.where(valid, weights, jnp.nan)
    # Here and not in the mean, whose gradient at NaN would be NaN times 0.
    heard = jnp.where(weights[..., None] == 0, 0.0, trees.widened(logits))
    return heard, Tokens(jnp.where(is_known, labels, 0), weights)


def _loss(logits: Array, tokens: Tokens) -> Float[Array, " n"]:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens.labels)
    return _mean(losses, tokens.weights)


def _metrics(logits: Array, tokens: Tokens) -> dict[str, Float[Array, " n"]]:
    is_right = jnp.argmax(logits, axis=-1).astype(tokens.labels.dtype) == tokens.labels
    # The argmax of NaNs is token 0. Tokens that are masked by -inf are harmless.
    can_judge = jnp.isfinite(jnp.max(logits, axis=-1))
    right = jnp.where(can_judge, is_right.astype(jnp.float32), jnp.nan)
    return {"accuracy": _mean(right, tokens.weights)}


def _mean(
    values: Float[Array, "n length"], weights: Float[Array, "n length"]
) -> Float[Array, " n"]:
    """An example's mean over its tokens; 0, with gradient 0, where no token counts."""
    total = jnp.sum(weights, axis=1)
    counted = jnp.where(total == 0, 1.0, total)
    weighted = jnp.sum(weights * values.astype(weights.dtype), axis=1)
    return weighted / counted


_TOKENS = supervised.Labelled(_read, _fitted, _loss, _metrics, _weigh)
