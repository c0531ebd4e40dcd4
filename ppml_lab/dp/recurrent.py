"""Per-example gradients of flax's recurrent networks, whose steps are a scan.

The scan runs once more and records, in every step, the input of every dense layer of
the cell and the gradient at its output; a step is one more place where the layer acts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax import Array
from jaxtyping import PyTree

from ppml_lab.dp.hearing import hearing
from ppml_lab.dp.tokens import Tokens, places

_CELLS = (nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.MGUCell, nn.SimpleCell)


def is_plain_rnn(layer: nn.RNN) -> bool:
    """Returns whether all steps share the parameters of a cell of dense layers."""
    lifted = (layer.variable_broadcast, layer.variable_carry, dict(layer.variable_axes))
    # An activation function that is a module has parameters of its own.
    names = (f.name for f in dataclasses.fields(layer.cell) if f.name != "parent")
    has_parts = any(isinstance(getattr(layer.cell, n), nn.Module) for n in names)
    is_made_of_dense = type(layer.cell) in _CELLS and not has_parts
    return is_made_of_dense and lifted == ("params", False, {})


def rnn(layer: nn.RNN, weights: PyTree, inputs: Array, grads: Any) -> dict[str, Any]:
    """The tokens of the cell's parameters.

    `grads` are the gradients at all steps' outputs, or at the last carry and these
    outputs.
    """
    cell, time = _of_dense_layers(layer.cell), 0 if layer.time_major else -2
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

    def one_example(inputs: Array, grads: Any) -> tuple[list[Array], list[Array]]:
        steps = _in_order(layer.reverse, jnp.moveaxis(inputs, time, 0))
        start = cell.initialize_carry(jax.random.key(0), steps[0].shape)
        _, _, (_, outputs) = jax.eval_shape(step, start, steps[0], [])
        taps = [jnp.zeros((len(steps), *out.shape), out.dtype) for out in outputs]

        def run(taps: list[Array]) -> tuple[Any, list[Array]]:
            def one_step(carry: PyTree, at: Any) -> tuple[PyTree, Any]:
                carry, output, (inputs, _) = step(carry, *at)
                return carry, (output, inputs)

            carry, (outputs, values) = jax.lax.scan(one_step, start, (steps, taps))
            outputs = _in_order(layer.reverse and layer.keep_order, outputs)
            outputs = jnp.moveaxis(outputs, 0, time)
            return (carry, outputs) if layer.return_carry else outputs, values

        _, pull, values = jax.vjp(run, taps, has_aux=True)
        return values, pull(grads)[0]

    values, deltas = jax.vmap(one_example)(inputs, grads)
    tokens = {}
    for name, left, right in zip(names.values(), values, deltas, strict=True):
        tokens[*name, "kernel"] = Tokens(places(left), places(right))
        tokens[*name, "bias"] = Tokens(None, places(right))
    return unflatten_dict(tokens)


def _of_dense_layers(cell: nn.RNNCellBase) -> nn.RNNCellBase:
    """The cell itself, or the plain cell that has the same parameters and outputs."""
    if not isinstance(cell, nn.OptimizedLSTMCell):
        return cell.clone(parent=None)
    own = {
        field.name: getattr(cell, field.name)
        for field in dataclasses.fields(cell)
        if field.name not in ("parent", "name")
    }
    return nn.LSTMCell(**own, parent=None)


def _in_order(backwards: bool, steps: Array) -> Array:
    return jnp.flip(steps, axis=0) if backwards else steps
