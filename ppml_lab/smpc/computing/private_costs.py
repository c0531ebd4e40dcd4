"""What a model costs on shares, layer by layer, without running it."""

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
    """What a layer sends, and everything inside it."""

    layer: str
    """Its path: "inputs", "model", "model/Dense_0"."""
    online_bytes: int
    """Of the party that sends most, once there are inputs."""
    offline_bytes: int
    """Of all together, before."""
    rounds: int
    """In which it sends: layers that need nothing of each other share them, so that
    they add up to more than the model's."""
    lan_seconds: float
    """Of its messages, not of computing, on `network.LAN`."""
    wan_seconds: float
    """The same on `network.WAN`."""


@arguments.checked
def by_layer(
    protocol: private.Protocol,
    function: Callable[[PyTree, PyTree], Any],
    params: PyTree,
    inputs: PyTree,
    *,
    depth: int = 2,
) -> list[LayerCost]:
    """The cost of sharing parameters and inputs ("inputs"), of the function ("model"),
    and of each of its layers: flax's modules, and what `jax.named_scope` names.

    Args:
      protocol: How the parties compute.
      function: `(params, inputs)`: a model's `apply`.
      params: The model owner's: arrays, or their `jax.ShapeDtypeStruct`.
      inputs: The same of somebody else.
      depth: Levels of layers below the model.

    Returns:
      One for each, outer before inner; of a layer that sends nothing, zeros.

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
        # How inputs are shared is no layer.
        if path.count("/") <= depth and not path.startswith("inputs/")
    ]
