"""Layers and records made to slip through per-example clipping.

The worlds of the contract clip rows that exist as arrays. DP-SGD clips gradients that
may never exist: their norms are computed from a layer's inputs and outputs, in the
layer's own float type, and their sum is one product. The layers here have gradients
that these computations easily get wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, dp, pairs
from ppml_lab.audit.probes import Finding

LOSS = 1e-5
"""The relative amount by which a contribution may seem longer than the clip norm."""

_WIDTH = 8


class Layer(NamedTuple):
    """A layer and the records that are difficult for it.

    Attributes:
      module: Maps `x` to outputs, whose products with the records' `r` are the loss.
      examples: `x` and `r`, arrays `[n, ...]`.
    """

    module: nn.Module
    examples: dict[str, np.ndarray]


class Twice(nn.Module):
    """One layer used twice, whose parts cancel in some records."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = nn.Dense(_WIDTH, use_bias=False)
        return jnp.stack([layer(x[..., 0, :]), layer(x[..., 1, :])], axis=-2)


def layers(num_aligned: int = 1024) -> dict[str, Layer]:
    """The difficult layers, by name."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    # Two parts of norm 9e4 whose sum has norm 3, at inputs where they are 0: computed
    # from their products in float32, in any order, this norm is exactly 0.
    n, wide = 8, 64
    part = 2.0**14 * np.sign(normal(n, wide))
    rest = normal(n, wide)
    part[:, ::2] = rest[:, 1::2] = 0
    rest *= 3 / np.linalg.norm(rest, axis=1, keepdims=True)
    weight = np.tile(np.eye(_WIDTH, dtype=np.float32)[:1], (n, 1))
    cancelling = {
        "x": np.stack([part, rest - part], axis=1),
        "r": np.stack([weight, weight], axis=1),
    }
    row = 1e3 * (1 + rng.random((1, wide))).astype(np.float32)
    aligned = {
        "x": np.tile(row, (num_aligned, 1)),
        "r": np.tile(normal(1, _WIDTH), (num_aligned, 1)),
    }
    words = {
        "x": np.tile(np.array([[4, -1]], np.int32), (n, 1)),
        "r": np.ones((n, 2, _WIDTH), np.float32),
    }
    dense = nn.Dense(_WIDTH)
    return {
        "cancelling places": Layer(nn.Dense(_WIDTH, use_bias=False), cancelling),
        "cancelling uses": Layer(Twice(), cancelling),
        "aligned": Layer(dense, aligned),
        "bfloat16": Layer(nn.Dense(_WIDTH, dtype=jnp.bfloat16), aligned),
        "float16": Layer(
            nn.Dense(_WIDTH, dtype=jnp.float16), aligned | {"x": aligned["x"] / 1e3}
        ),
        "two names of one row": Layer(nn.Embed(5, _WIDTH), words),
    }


@arguments.checked
def check_clipping(
    make: Callable[[base.TaskLoss], dp.ClippedTotal],
    clip_norm: float,
    *,
    state: PyTree = (),
    num_left_out: int = 3,
) -> tuple[Finding, ...]:
    """Checks how far one example moves a sum of clipped gradients.

    It tries layers whose norms or sums are easily wrong: places of an example that
    cancel, layers of short floats, thousands of aligned examples, two names of one row
    of a table.

    **Guarantee:** no chance is involved: a refuted layer has an example that moves the
    sum of these batches by more than `clip_norm` times 1 + 1e-5, or a sum that is not
    finite. Passing is no proof for other layers and records.

    Args:
      make: From a loss of the audit's to `(keys, state, params, examples, weights) ->
        (sum, losses)`, such as `lambda loss: dp.clipped_total(loss, mechanism)`.
      clip_norm: The claimed clip norm; not 1, at which several bugs are invisible.
      state: The mechanism's state.
      num_left_out: Examples of each batch that are left out, one at a time.

    Returns:
      A finding of each layer, whose detector is "clipping: " and its name. A layer that
      `make` refuses by a ValueError is not refuted.

    Raises:
      ValueError: For a clip norm that is not a positive number or is 1.
    """
    checks.positive("clip_norm", clip_norm)
    checks.at_least("num_left_out", num_left_out, 1)
    if clip_norm == 1:
        raise ValueError(
            "clip_norm 1 hides bugs; audit with another clip_norm, such as 0.5"
        )
    return tuple(
        _look(name, layer, make, clip_norm, state, num_left_out)
        for name, layer in layers().items()
    )


def _look(
    name: str,
    layer: Layer,
    make: Callable[[base.TaskLoss], dp.ClippedTotal],
    clip_norm: float,
    state: PyTree,
    num_left_out: int,
) -> Finding:
    def loss(key: base.Key, params: PyTree, examples: Any) -> jax.Array:
        del key
        outputs = layer.module.apply({"params": params}, examples["x"])
        products = jnp.asarray(outputs, jnp.float32) * examples["r"]
        return jnp.sum(products.reshape(len(products), -1), axis=1)

    examples = jax.tree.map(jnp.asarray, layer.examples)
    n = len(examples["x"])
    params = layer.module.init(jax.random.key(0), examples["x"])["params"]
    keys = dp.example_keys(jax.random.key(1), n)
    detector = f"clipping: {name}"
    gradient = jax.jit(make(loss))

    def summed(weights: np.ndarray) -> np.ndarray:
        given = jnp.asarray(weights, jnp.float32)
        total, _ = gradient(keys, state, params, examples, given)
        parts = [
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)])
            for part in pairs.of(total)
        ]
        return parts[0].astype(np.float64) + parts[1]

    everyone = np.ones(n)
    try:
        whole = summed(everyone)
    except ValueError as refusal:
        if type(refusal).__module__.startswith("jax"):
            # A failure to trace the program is not a refusal.
            raise
        return Finding(detector, False, f"refused: {refusal}")
    places = np.linspace(0, n - 1, num_left_out).astype(int)
    alone = [summed(np.arange(n) == place) for place in places]
    moves = [whole - summed(np.arange(n) != place) for place in places]
    norms = np.array([np.linalg.norm(x) for x in (*alone, *moves)]) / clip_norm
    worst = float(norms.max())
    return Finding(
        detector,
        not worst <= 1 + LOSS,
        f"one of {n} examples moves the sum by {worst:.6f} clip norms",
    )
