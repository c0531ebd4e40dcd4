"""Listening to the layers of a flax model while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
from jax import Array
from jax.extend.core import get_opaque_trace_state


def hearing(
    is_known: Callable[[nn.Module], bool],
    hear: Callable[[nn.Module, Array, Any], Any],
) -> AbstractContextManager[None]:
    """A context in which `hear(layer, input, output)` replaces known layers' outputs.

    An output may be several arrays. `hear` sees calls with one input and nothing else,
    and none from inside a transformation that began later (the body of a scan, say),
    whose values cannot be used outside.
    """
    here = get_opaque_trace_state(convention="flax")

    def intercept(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_call(*args, **kwargs)
        plain = context.method_name == "__call__" and len(args) == 1 and not kwargs
        if not plain or not is_known(context.module):
            return output
        if get_opaque_trace_state(convention="flax") != here:
            return output
        return hear(context.module, args[0], output)

    return nn.intercept_methods(intercept)
