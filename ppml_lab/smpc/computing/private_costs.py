"""The cost of a model on shares, layer by layer, without running the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ppml_lab import arguments, checks, random, trees
from ppml_lab.smpc import network, transcript
from ppml_lab.smpc.computing import private


class LayerCost(NamedTuple):
    """The cost of a layer and everything inside it."""

    layer: str
    """The layer's path: "inputs", "model", "model/Dense_0"."""
    online_bytes: int
    """Bytes of the party that sends most, once there are inputs."""
    offline_bytes: int
    """Bytes of all parties together, before there are inputs."""
    rounds: int
    """Rounds in which the layer sends: layers that need nothing of each other share
    rounds, so that their numbers add up to more than the model's."""
    lan_seconds: float
    """Seconds of the layer's messages, not of computing, on `network.LAN`."""
    wan_seconds: float
    """Seconds of the layer's messages, not of computing, on `network.WAN`."""


@arguments.checked
def by_layer(
    protocol: private.Protocol,
    function: Callable[[PyTree, PyTree], Any],
    params: PyTree,
    inputs: PyTree,
    *,
    depth: int = 2,
) -> list[LayerCost]:
    """The costs of sharing the inputs, of the model, and of each of its layers.

    "inputs" is the sharing of parameters and inputs, "model" the function. Layers are
    flax's modules, and what `jax.named_scope` names.

    Args:
      protocol: How the parties compute.
      function: `(params, inputs)`: a model's `apply`.
      params: The model owner's arrays, or their `jax.ShapeDtypeStruct`.
      inputs: Somebody else's arrays, or their `jax.ShapeDtypeStruct`.
      depth: Levels of layers below the model.

    Returns:
      One cost for each, outer before inner; zeros for a layer that sends nothing.

    Raises:
      ValueError: For trees without arrays, or a function that has no private form.
    """
    checks.at_least("depth", depth, 0)
    trees.check_arrays("params", params)
    trees.check_arrays("inputs", inputs)

    def evaluated(seed: Any, params: PyTree, inputs: PyTree) -> Any:
        with transcript.scope("inputs"):
            shared = (
                private.share(protocol, random.child(seed, 0), params, owner="model"),
                private.share(protocol, random.child(seed, 1), inputs),
            )
        with transcript.scope("model"):
            return private.evaluate(protocol, random.child(seed, 2), function, *shared)

    seed = jax.ShapeDtypeStruct((2,), jnp.uint32)
    sent = transcript.priced(evaluated, seed, params, inputs)
    return [
        LayerCost(
            path,
            max((sent.sent_bits(p, path) // 8 for p in sent.parties()), default=0),
            sent.sent_bits(scope=path, offline=True) // 8,
            sent.num_rounds(path),
            sent.seconds(network.LAN, path),
            sent.seconds(network.WAN, path),
        )
        for path in sent.scopes
        # The scopes inside "inputs" are no layers.
        if path.count("/") <= depth and not path.startswith("inputs/")
    ]
