"""Per-example gradient norms without per-example gradients: "ghost" norms.

A layer's gradient for one example is made of the layer's input and of the gradient at
its output. One forward and one backward pass give both for all layers and examples;
they give every example's norm, and, once the clipping factors are known, the weighted
sum of gradients without a second backward pass.

Goodfellow, "Efficient per-example gradient computations", 2015; Li, Tramer, Liang,
Hashimoto, "Large Language Models Can Be Strong Differentially Private Learners", ICLR
2022; Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at
Small Cost", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Jaxpr, Var, get_opaque_trace_state
from jaxtyping import PyTree

from ppml_lab import base
from ppml_lab.dp import tokens
from ppml_lab.dp.layers import Rule, rule_of
from ppml_lab.dp.per_example import Method, PerExample, single_loss


class Call(NamedTuple):
    """A layer that the model calls, of which the gradients are known.

    Attributes:
      layer: Unbound.
      rule: How to tell its gradients.
      leaves: Which leaf of the model's parameters each of its own is.
      output: What it returns.
    """

    layer: nn.Module
    rule: Rule
    leaves: dict[str, int]
    output: jax.ShapeDtypeStruct


class UnknownLayerError(ValueError):
    """A model whose per-example gradients `by_layers` cannot tell."""


def by_layers(loss: base.TaskLoss) -> Method:
    """Gradients of a model of known layers, by their inputs and output gradients.

    The model may be any code that calls flax's Dense, Conv, Embed, LayerNorm, RMSNorm
    and GroupNorm, each any number of times. An example goes through it alone, as a
    batch of one, so that nothing can mix examples.

    Raises:
      UnknownLayerError: When called, if parameters reach the loss other than through
        such layers, outside of scans and other transformations; names them.
    """
    single = single_loss(loss)

    def gradients(keys: base.Key, params: PyTree, examples: PyTree) -> PerExample:
        leaves, structure = jax.tree.flatten(params)
        first = jax.eval_shape(
            lambda *batch: jax.tree.map(lambda leaf: leaf[0], batch), keys, examples
        )
        calls = _calls(single, params, *first)
        known = [call for call in calls if call is not None]
        taps = [jnp.zeros((len(keys), *c.output.shape), c.output.dtype) for c in known]

        def tapped(taps: Any, key: base.Key, example: PyTree) -> tuple[Array, Any]:
            inputs: list[Array] = []
            coming = iter(calls)

            def hear(layer: nn.Module, value: Array, output: Array) -> Array:
                if next(coming) is None:
                    return output
                inputs.append(value)
                return output + taps[len(inputs) - 1]

            with nn.intercept_methods(_hearing(hear)):
                return single(params, key, example), inputs

        single_grads = jax.value_and_grad(tapped, has_aux=True)
        (losses, inputs), grads = jax.vmap(single_grads)(taps, keys, examples)
        uses: list[list[tokens.Tokens]] = [[] for _ in leaves]
        for call, value, grad in zip(known, inputs, grads, strict=True):
            found = call.rule(call.layer, value, grad)
            for name, place in call.leaves.items():
                uses[place].append(found[name])
        parts = [
            tokens.gradients(own, leaf.shape) if own else _none(leaf, len(keys))
            for own, leaf in zip(uses, leaves, strict=True)
        ]
        whole = jax.tree.unflatten(structure, parts)

        def weighted_sum(factors: PyTree) -> PyTree:
            return jax.tree.map(
                lambda factor, part: part.weighted_sum(factor), factors, whole
            )

        norms = jax.tree.unflatten(structure, [part.squared_norms for part in parts])
        return PerExample(losses, norms, weighted_sum)

    return gradients


def _none(leaf: Array, n: int) -> tokens.Gradients:
    """The gradients of a parameter that the loss does not use."""
    return tokens.Gradients(jnp.zeros(n), lambda factors: jnp.zeros_like(leaf))


def _hearing(hear: Callable[[nn.Module, Array, Array], Array]) -> Any:
    """An interceptor that shows `hear` the input and output of calls of layers."""
    outside = get_opaque_trace_state(convention="flax")

    def intercept(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_call(*args, **kwargs)
        plain = context.method_name == "__call__" and len(args) == 1 and not kwargs
        if not plain or rule_of(context.module) is None:
            return output
        if get_opaque_trace_state(convention="flax") != outside:
            return output  # The body of a scan, say, which could not tell its inputs.
        return hear(context.module, args[0], output)

    return intercept


def _calls(
    single: Callable[..., Array], params: PyTree, key: Any, example: PyTree
) -> list[Call | None]:
    """The calls of layers in the model's order; None where a layer uses none of
    `params`.
    """
    calls: list[Call | None] = []

    def without_known_layers(params: PyTree, key: Any, example: PyTree) -> Array:
        places = {id(leaf): at for at, leaf in enumerate(jax.tree.leaves(params))}

        def hear(layer: nn.Module, value: Array, output: Array) -> Array:
            own = layer.variables.get("params", {})
            rule = rule_of(layer)
            if not own or any(id(leaf) not in places for leaf in own.values()):
                calls.append(None)
                return output
            leaves = {name: places[id(leaf)] for name, leaf in own.items()}
            assert rule is not None
            shape = jax.ShapeDtypeStruct(output.shape, output.dtype)
            calls.append(Call(layer.clone(parent=None), rule, leaves, shape))
            # Something of this shape that knows the input but not the parameters.
            return jnp.zeros_like(output) + jnp.sum(value).astype(output.dtype)

        with nn.intercept_methods(_hearing(hear)):
            return single(params, key, example)

    jaxpr = jax.make_jaxpr(without_known_layers)(params, key, example).jaxpr
    used = set(_used(jaxpr))
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    unknown = [
        jax.tree_util.keystr(path)
        for path, variable in zip(paths, jaxpr.invars, strict=False)
        if variable in used
    ]
    if unknown:
        raise UnknownLayerError(
            f"ghost norms know Dense, Conv, Embed, LayerNorm, RMSNorm and GroupNorm, "
            f"but {', '.join(unknown[:3])} reach the loss in another way; use "
            'method="vmap"'
        )
    return calls


def _used(jaxpr: Jaxpr) -> Iterator[Any]:
    """The variables on which the outputs may depend."""
    needed = {v for v in jaxpr.outvars if isinstance(v, Var)}
    for equation in reversed(jaxpr.eqns):
        if any(output in needed for output in equation.outvars):
            needed |= {v for v in equation.invars if isinstance(v, Var)}
    return iter(needed)
