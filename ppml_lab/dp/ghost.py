"""Per-example gradient norms without per-example gradients: "ghost" norms.

A layer's gradient for one example is made of the layer's input and of the gradient at
its output. One forward and one backward pass give both for all layers and examples.
These give every example's norm, and, once the clipping factors are known, the weighted
sum of gradients without a second backward pass. Only small parameters that act outside
of known layers, such as a scale or a table of positions that is added to all examples,
get whole gradients, one per example.

Goodfellow, "Efficient per-example gradient computations", 2015; Li, Tramer, Liang,
Hashimoto, "Large Language Models Can Be Strong Differentially Private Learners", ICLR
2022; Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at
Small Cost", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.extend.core import Jaxpr, Var
from jaxtyping import PyTree

from ppml_lab import base, pairs
from ppml_lab.dp import tokens
from ppml_lab.dp.hearing import hearing
from ppml_lab.dp.layers import Rule, parameters, rule_of
from ppml_lab.dp.per_example import Method, PerExample, check_loss, single_loss


class Call(NamedTuple):
    """A model's call of a layer whose per-example gradients are known.

    Attributes:
      layer: The layer, unbound.
      rule: The rule for its gradients.
      leaves: By path of each parameter of the layer, the number of that leaf among the
        model's parameters.
      outputs: The shapes of its outputs, an array or a tree of arrays.
    """

    layer: nn.Module
    rule: Rule
    leaves: dict[tuple[str, ...], int]
    outputs: PyTree[jax.ShapeDtypeStruct]


class UnknownLayerError(ValueError):
    """Raised for a model whose per-example gradients `by_layers` cannot compute."""


def by_layers(loss: base.TaskLoss) -> Method:
    """Per-example gradients of known layers, by layer inputs and output gradients.

    The model may be any code that calls flax's Dense, DenseGeneral, Conv, Embed,
    LayerNorm, RMSNorm, GroupNorm, what is made of these, such as
    MultiHeadDotProductAttention with any mask, and RNN (of cells made of dense layers),
    each any number of times. An example goes through it alone, as a batch of one, so
    that nothing can mix examples.

    A parameter that reaches the loss in another way too, such as a table of positions
    or a word embedding that is also the output layer, gets a whole gradient for every
    example, over all its uses. This is done where such parameters together have no more
    entries than the known layers have outputs, which take as much memory anyway.

    Raises:
      UnknownLayerError: When called, if larger parameters reach the loss other than
        through such layers, outside of scans and other transformations; the message
        names them.
    """
    single = single_loss(loss)

    def gradients(keys: base.Key, params: PyTree, examples: PyTree) -> PerExample:
        check_loss(loss, keys, params, examples, 2)
        leaves, structure = jax.tree.flatten(params)
        first = jax.eval_shape(
            lambda *batch: jax.tree.map(lambda leaf: leaf[0], batch), keys, examples
        )
        calls, made = _calls(single, params, *first)
        known = [call for call in calls if call is not None]
        taps = [
            jax.tree.map(lambda out: jnp.zeros((len(keys), *out.shape), out.dtype), all)
            for all in (call.outputs for call in known)
        ]

        def tapped(
            taps: Any, whole: list[Array], key: base.Key, example: PyTree
        ) -> tuple[Array, Any]:
            inputs: list[Array] = []
            coming = iter(calls)
            given = list(leaves)
            for place, leaf in zip(made, whole, strict=True):
                given[place] = leaf

            def hear(layer: nn.Module, value: Array, output: Any) -> Any:
                if next(coming) is None:
                    return output
                inputs.append(value)
                return jax.tree.map(jnp.add, output, taps[len(inputs) - 1])

            with hearing(_is_known, hear):
                return single(
                    jax.tree.unflatten(structure, given), key, example
                ), inputs

        single_grads = jax.value_and_grad(tapped, argnums=(0, 1), has_aux=True)
        (losses, inputs), (grads, wholes) = jax.vmap(
            single_grads, in_axes=(0, None, 0, 0)
        )(taps, [leaves[place] for place in made], keys, examples)
        uses: list[list[tokens.Tokens]] = [[] for _ in leaves]
        for call, value, grad in zip(known, inputs, grads, strict=True):
            weights = {path: leaves[place] for path, place in call.leaves.items()}
            found: Any = flatten_dict(
                call.rule.tokens(call.layer, unflatten_dict(weights), value, grad)
            )
            for path, place in call.leaves.items():
                if place not in made:
                    uses[place].append(found[path])
        for own, (path, _) in zip(uses, jax.tree.leaves_with_path(params), strict=True):
            if len({getattr(use.left, "ndim", 0) for use in own}) > 1:
                raise UnknownLayerError(
                    f"ghost norms cannot add the uses of {jax.tree_util.keystr(path)} "
                    'as a table of rows and as a matrix; use method="vmap"'
                )
        parts = [
            tokens.gradients(own, leaf.shape) if own else _none(leaf, len(keys))
            for own, leaf in zip(uses, leaves, strict=True)
        ]
        for place, whole in zip(made, wholes, strict=True):
            parts[place] = tokens.kept(whole, leaves[place].shape)
        whole = jax.tree.unflatten(structure, parts)

        def weighted_sum(factors: PyTree) -> pairs.Pair:
            return pairs.together(
                jax.tree.map(
                    lambda factor, part: part.weighted_sum(factor), factors, whole
                )
            )

        norms = jax.tree.unflatten(structure, [part.squared_norms for part in parts])
        return PerExample(losses, norms, weighted_sum)

    return gradients


def _is_known(layer: nn.Module) -> bool:
    return rule_of(layer) is not None


def _none(leaf: Any, n: int) -> tokens.Gradients:
    """The zero gradients of a parameter that the loss does not use."""
    return tokens.Gradients(jnp.zeros(n), lambda factors: pairs.zero(leaf))


def _calls(
    single: Callable[..., Array], params: PyTree, key: Any, example: PyTree
) -> tuple[list[Call | None], list[int]]:
    """The layer calls in the model's order, and the leaves with other ways to the loss.

    A call is None where the layer uses none of `params`; leaves are numbers of leaves
    of `params`.
    """
    calls: list[Call | None] = []

    def without_known_layers(params: PyTree, key: Any, example: PyTree) -> Array:
        places = {id(leaf): at for at, leaf in enumerate(jax.tree.leaves(params))}

        def hear(layer: nn.Module, value: Array, outputs: Any) -> Any:
            rule = rule_of(layer)
            assert rule is not None
            own = parameters(layer, rule)
            leaves = {
                path: places[id(leaf)]
                for path, leaf in own.items()
                if id(leaf) in places
            }
            others = [leaf for leaf in own.values() if id(leaf) not in places]
            # A rule that needs all weights cannot work with some of them.
            if not leaves or (others and rule.names(layer) is None):
                calls.append(None)
                return outputs
            shapes = jax.eval_shape(lambda: outputs)
            calls.append(Call(layer.clone(parent=None), rule, leaves, shapes))

            # A stand-in of this shape that depends on all but the parameters that the
            # rule covers: others are constant, or depend on parameters, which shows.
            def like(output: Array) -> Array:
                rest = [jnp.sum(leaf).astype(output.dtype) for leaf in (value, *others)]
                return jnp.zeros_like(output) + sum(rest)

            return jax.tree.map(like, outputs)

        with hearing(_is_known, hear):
            return single(params, key, example)

    jaxpr = jax.make_jaxpr(without_known_layers)(params, key, example).jaxpr
    used = _used(jaxpr)
    leaves = jax.tree.leaves_with_path(params)
    made = [at for at, found in enumerate(jaxpr.invars[: len(leaves)]) if found in used]
    told = [call.outputs for call in calls if call is not None]
    if _size([leaves[at][1] for at in made]) > _size(told):
        unknown = [jax.tree_util.keystr(leaves[at][0]) for at in made]
        raise UnknownLayerError(
            "ghost norms support Dense, DenseGeneral, Conv, Embed, LayerNorm, RMSNorm, "
            f"GroupNorm, attention made of these and RNN, but {', '.join(unknown[:3])} "
            "reach the loss in another way and have more entries than the outputs of "
            'these layers; use method="vmap"'
        )
    return calls, made


def _size(arrays: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(arrays))


def _used(jaxpr: Jaxpr) -> set[Any]:
    """The variables on which the outputs may depend."""
    needed = {v for v in jaxpr.outvars if isinstance(v, Var)}
    for equation in reversed(jaxpr.eqns):
        if any(output in needed for output in equation.outvars):
            needed |= {v for v in equation.invars if isinstance(v, Var)}
    return needed
