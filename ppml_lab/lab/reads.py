"""Which inputs of a traced program its outputs depend on, through loops and calls.

Neither unused inputs nor jax's own removal of dead code see into a loop whose carry
takes a number along that no result ever needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Literal


def reads(jaxpr: Any, live_outs: Sequence[bool]) -> list[bool]:
    """For each input of a jaxpr, whether an output that is live depends on it.

    Args:
      jaxpr: An open jaxpr (the `jaxpr` of a closed one).
      live_outs: For each output, whether anything needs it.
    """
    outs = zip(jaxpr.outvars, live_outs, strict=True)
    live = {var for var, needed in outs if needed and not isinstance(var, Literal)}
    for equation in reversed(jaxpr.eqns):
        needed = [var in live for var in equation.outvars]
        if any(needed) or equation.effects:
            inputs = zip(equation.invars, _through(equation, needed), strict=True)
            live |= {v for v, read in inputs if read and not isinstance(v, Literal)}
    return [var in live for var in jaxpr.invars]


def _through(equation: Any, outs: list[bool]) -> list[bool]:
    """Which inputs an equation's live outputs need; all where its inside is unknown."""
    params, name = equation.params, equation.primitive.name
    if name == "scan":
        consts, carried = params["num_consts"], params["num_carry"]
        return _loop(params["jaxpr"].jaxpr, consts, outs[:carried], outs[carried:])
    if name == "while":
        of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
        test = reads(params["cond_jaxpr"].jaxpr, [True])
        # Whether it goes on depends on what the test reads.
        carry = [a or b for a, b in zip(outs, test[of_test:], strict=True)]
        return test[:of_test] + _loop(params["body_jaxpr"].jaxpr, of_body, carry, [])
    if name == "cond":
        branches = [reads(branch.jaxpr, outs) for branch in params["branches"]]
        return [True, *map(any, zip(*branches, strict=True))]
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    fits = inner is not None and len(inner.invars) == len(equation.invars)
    if not fits or len(inner.outvars) != len(outs):
        return [True] * len(equation.invars)
    return reads(inner, outs)


def _loop(body: Any, consts: int, carry: list[bool], stacked: list[bool]) -> list[bool]:
    """What a loop reads, once all that its live carry needs is live."""
    while True:
        inputs = reads(body, carry + stacked)
        of_carry = inputs[consts : consts + len(carry)]
        more = [a or b for a, b in zip(carry, of_carry, strict=True)]
        if more == carry:
            return inputs[:consts] + carry + inputs[consts + len(carry) :]
        carry = more
