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

    An output may be several arrays. `hear` sees calls with one input and nothing else.
    It sees none from inside a known layer, none whose input or output an interceptor of
    the model's own may change, and none from inside a transformation that began later
    (the body of a scan, say), whose values cannot be used outside.
    """
    here = get_opaque_trace_state(convention="flax")
    inside = False

    def intercept(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal inside
        if (
            inside
            or (context.method_name, len(args), kwargs) != ("__call__", 1, {})
            or next_call is not context.orig_method
            or get_opaque_trace_state(convention="flax") != here
            or not is_known(context.module)
        ):
            return next_call(*args, **kwargs)
        inside = True
        try:
            output = next_call(*args, **kwargs)
        finally:
            inside = False
        return hear(context.module, args[0], output)

    return nn.intercept_methods(intercept)
