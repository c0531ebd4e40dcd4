"""Per-example gradients of flax's recurrent networks, whose steps are a scan.

The scan runs once more and tells what every dense layer of the cell sees and which
gradient comes back to it in every step; a step is one more place where the layer acts.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax import Array
from jaxtyping import PyTree

from ppml_lab.dp.hearing import hearing
from ppml_lab.dp.tokens import Tokens, places

_CELLS = (nn.LSTMCell, nn.GRUCell, nn.MGUCell, nn.SimpleCell)


def is_plain_rnn(layer: nn.RNN) -> bool:
    """Whether it goes forward over the last axis but one with a cell of dense layers,
    and returns its outputs.
    """
    turned = layer.time_major or layer.return_carry or layer.reverse
    lifted = (layer.variable_broadcast, layer.variable_carry, dict(layer.variable_axes))
    plain = lifted == ("params", False, {}) and not turned
    return type(layer.cell) in _CELLS and plain


def rnn(layer: nn.RNN, weights: PyTree, inputs: Array, grads: Array) -> dict[str, Any]:
    """The tokens of the cell's parameters; `grads` is that of all steps' outputs."""
    cell = layer.cell.clone(parent=None)
    names: dict[int, tuple[str, ...]] = {}

    def step(carry: PyTree, x: Array, taps: list[Array]) -> tuple[Any, Any, Any]:
        inputs, outputs = [], []

        def hear(dense: nn.Module, value: Array, output: Array) -> Array:
            names[len(inputs)] = dense.path
            inputs.append(value)
            outputs.append(output)
            return output + taps[len(inputs) - 1] if taps else output

        with hearing(lambda module: type(module) is nn.Dense, hear):
            carry, output = cell.apply({"params": weights}, carry, x)
        return carry, output, (inputs, outputs)

    def one_example(inputs: Array, grads: Array) -> tuple[list[Array], list[Array]]:
        steps, by_step = jnp.moveaxis(inputs, -2, 0), jnp.moveaxis(grads, -2, 0)
        start = cell.initialize_carry(jax.random.key(0), steps[0].shape)
        _, _, (_, outputs) = jax.eval_shape(step, start, steps[0], [])
        taps = [jnp.zeros((len(steps), *out.shape), out.dtype) for out in outputs]

        def run(taps: list[Array]) -> tuple[Array, list[Array]]:
            def one_step(carry: PyTree, at: Any) -> tuple[PyTree, Any]:
                carry, output, (inputs, _) = step(carry, *at)
                return carry, (output, inputs)

            return jax.lax.scan(one_step, start, (steps, taps))[1]

        _, pull, values = jax.vjp(run, taps, has_aux=True)
        return values, pull(by_step)[0]

    values, deltas = jax.vmap(one_example)(inputs, grads)
    tokens = {}
    for name, left, right in zip(names.values(), values, deltas, strict=True):
        tokens[*name, "kernel"] = Tokens(places(left), places(right))
        tokens[*name, "bias"] = Tokens(None, places(right))
    return unflatten_dict(tokens)
