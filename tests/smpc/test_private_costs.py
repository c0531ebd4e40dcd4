"""What models cost on shares, by layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ppml_lab import models
from ppml_lab.smpc import network, private, private_costs

IMAGES = jax.ShapeDtypeStruct((4, 6, 6, 1), jnp.float32)
MODULE = models.two_nn(3)
PARAMS = jax.eval_shape(MODULE.init, jax.random.key(0), IMAGES)


@pytest.mark.parametrize(
    "kind", ["additive", pytest.param("replicated", marks=pytest.mark.exhaustive)]
)
def test_layers_add_up_to_what_the_whole_sends(kind: str) -> None:
    how = private.protocol(kind, ideal=True)
    found = {one.layer: one for one in private_costs.by_layer(how, MODULE.apply, PARAMS,
                                                              IMAGES)}  # fmt: skip
    assert [*found][:2] == ["inputs", "model"]
    layers = [one for one in found.values() if one.layer.count("/") == 2]
    names = {one.layer.removeprefix("model/MLP/") for one in layers}
    assert names >= {"Dense_0", "sign", "Dense_1", "Dense_2"}
    whole = found["model"]
    assert sum(one.offline_bytes for one in layers) == whole.offline_bytes
    # The busiest party of a layer need not be that of the whole.
    assert sum(one.online_bytes for one in layers) >= whole.online_bytes > 0
    assert max(one.rounds for one in layers) < whole.rounds

    # Each Dense's weights once, and a word of eight bytes for a number, at least.
    sizes = [leaf.size for leaf in jax.tree.leaves(PARAMS)]
    assert found["inputs"].online_bytes >= 8 * sum(sizes)
    for links, seconds in ((network.LAN, whole.lan_seconds),
                           (network.WAN, whole.wan_seconds)):  # fmt: skip
        assert seconds > network.seconds(0, links, exchanges=whole.rounds)


def test_layers_are_as_deep_as_one_asks() -> None:
    def nested(params: Any, x: jax.Array) -> jax.Array:
        with jax.named_scope("outer"), jax.named_scope("inner"):
            return x @ params

    how = private.protocol(ideal=True)
    like = [jax.ShapeDtypeStruct((2, 2), jnp.float32)] * 2
    for depth, deepest in ((0, "model"), (1, "model/outer")):
        found = private_costs.by_layer(how, nested, *like, depth=depth)
        assert found[-1].layer == deepest
    with pytest.raises(ValueError, match="depth must be an integer of at least 0"):
        private_costs.by_layer(how, nested, *like, depth=-1)
    with pytest.raises(ValueError, match="params has no arrays"):
        private_costs.by_layer(how, nested, {}, like[1])


@pytest.mark.parametrize("kind", ["additive", "replicated"])
def test_what_sends_nothing_costs_nothing_and_is_there(kind: str) -> None:
    def linear(params: Any, x: jax.Array) -> jax.Array:
        with jax.named_scope("sum"):
            return x.sum(axis=0) + params

    def partly(params: Any, x: jax.Array) -> jax.Array:
        with jax.named_scope("flat"):
            x = x.reshape(4)[:2] * 2.0
        with jax.named_scope("dense"):
            return params @ x

    how = private.protocol(kind, ideal=True)
    like = [jax.ShapeDtypeStruct((2, 2), jnp.float32)] * 2
    inputs, *layers = private_costs.by_layer(how, linear, *like)
    assert inputs.online_bytes > 0
    free = (0, 0, 0, 0.0, 0.0)
    assert [tuple(one) for one in layers] == [("model", *free), ("model/sum", *free)]

    found = {one.layer: one for one in private_costs.by_layer(how, partly, *like)}
    assert [*found][:4] == ["inputs", "model", "model/flat", "model/dense"]
    assert found["model/flat"][1:] == free
    assert found["model/dense"].online_bytes == found["model"].online_bytes > 0
