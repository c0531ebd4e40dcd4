"""A check that a program's numbers fit the ring, made by running it in the clear."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppml_lab.smpc.computing import interpreter, private_functions, public_factors
from ppml_lab.smpc.ring import Ring

_CONTRACTIONS = ("dot_general", "conv_general_dilated")


@dataclasses.dataclass(frozen=True)
class Secret:
    """A value in the clear that would be shared."""

    value: Any


class Ranges:
    """The bits that each layer's fixed-point numbers need, while a program runs."""

    def __init__(self, ring: Ring, fraction_bits: int) -> None:
        self.ring, self.fraction_bits = ring, fraction_bits
        self.needed: dict[str, int] = {}

    def run(self, closed: Any, args: Sequence[Any]) -> list[Any]:
        """Carries out a program and notes the range that each secret value needs."""
        for value in args:
            if isinstance(value, Secret):
                self._note("the inputs", value.value, 0)
        return interpreter.walk(closed, list(args), self._carry_out)

    def _carry_out(self, equation: Any, inputs: list[Any], place: str) -> list[Any]:
        if equation.primitive.name == "scan":
            return _unrolled(equation, inputs, self._carry_out, place)
        is_secret = [isinstance(value, Secret) for value in inputs]
        clear = [
            value.value if isinstance(value, Secret) else self._saturated(value)
            for value in inputs
        ]
        if not any(is_secret):
            clear = inputs
        found = interpreter.in_the_clear(equation, clear)
        if not any(is_secret):
            return found
        layer = place or "the function"
        name = interpreter.whole_name(equation) or equation.primitive.name
        self._check_domain(layer, name, clear, is_secret, equation.params)
        for value, bits in self._products(name, clear, is_secret, found):
            self._note(layer, value, bits)
        return [Secret(value) for value in found]

    def _products(
        self, name: str, inputs: list[Any], is_secret: list[bool], found: list[Any]
    ) -> list[tuple[Any, int]]:
        """The values that have to fit, and how many more fraction bits each has."""
        results = [(value, 0) for value in found]
        f = self.fraction_bits
        if name == "div" and not is_secret[1]:
            inputs = [inputs[0], 1 / np.asarray(inputs[1], np.float32)]
            name = "mul"
        if name not in ("mul", "square", "integer_pow", "div", *_CONTRACTIONS):
            return results
        if name == "div":
            return [*results, *((v, f) for v in found)]
        if all(is_secret):
            return [(value, f) for value in found]
        public = inputs[is_secret.index(False)]
        secret = inputs[is_secret.index(True)]
        if public_factors.whole_numbers(np.asarray(public)) is not None:
            return results
        bits = public_factors.mantissa_bits(self.ring, f)
        if name == "mul":
            return [*results, (secret, bits)]
        # Counts as if the whole public tensor had one power of two. Each sum has its
        # own, by which it can be larger than counted here, but by no more than the
        # factor's bits.
        power = 2.0 ** np.frexp(np.max(np.abs(public), initial=0.0))[1]
        return [*results, *((value / power, bits) for value in found)]

    def _note(self, layer: str, value: Any, more_bits: int) -> None:
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return
        known = np.asarray(value)
        most = float(np.max(np.abs(known[np.isfinite(known)]), initial=0.0))
        integer = math.ceil(math.log2(most)) if most else 0
        # A sign, and the quarter of the ring that truncation leaves free.
        bits = max(0, integer) + self.fraction_bits + more_bits + 2
        self.needed[layer] = max(self.needed.get(layer, 0), bits)

    def _saturated(self, public: Any) -> Any:
        """A public value within the ring, as `private_values.known` makes it."""
        if not jnp.issubdtype(jnp.result_type(public), jnp.floating):
            return public
        array = np.asarray(public)
        step = 2.0**-self.fraction_bits
        far = np.abs(array) > 2.0 ** (self.ring.bits - 2) * step
        limit = np.sign(array) * np.float32(2.0 ** (self.ring.bits - 3) * step)
        return np.where(far, limit, array).astype(array.dtype)

    def _check_domain(
        self,
        layer: str,
        name: str,
        inputs: list[Any],
        is_secret: list[bool],
        params: Any,
    ) -> None:
        """Raises ValueError where an approximation would saturate."""
        step = 2.0**-self.fraction_bits
        most = 2.0 ** (self.ring.bits - 3) * step
        argument = np.asarray(inputs[-1] if name == "div" else inputs[0], np.float64)
        if name in ("div", "reciprocal") or (name == "integer_pow" and params["y"] < 0):
            if not is_secret[-1]:
                return
            argument = np.abs(argument)
            argument = argument ** -params["y"] if name == "integer_pow" else argument
            low, high = step, most
        elif name in ("rsqrt", "inverse_sqrt", "log", "pow"):
            low, high = step, most
        elif name == "log1p":
            low, high = step - 1, most
        elif name == "sqrt":
            low, high = 0.0, most
        elif name in ("exp", "exp2", "expm1"):
            high = float(
                private_functions.most_exponent(self.ring, self.fraction_bits)
            ) * (1 if name == "exp2" else math.log(2))
            low = -math.inf
        else:
            return
        inside = (argument >= low) & (argument <= high)
        if not inside.all():
            worst = argument[~inside].ravel()[0]
            raise ValueError(
                f"layer {layer}: {name} of {worst:g} saturates: with fraction_bits "
                f"{self.fraction_bits} in {self.ring.name} its argument must lie in "
                f"[{low:g}, {high:g}]"
            )


def _unrolled(
    equation: Any, inputs: list[Any], carry_out: interpreter.CarryOut, place: str
) -> list[Any]:
    """A loop in the clear, step by step."""
    loop = interpreter.loop_of(equation)
    consts, carry, items = loop.split(inputs)
    outs = []
    for step in range(loop.length):
        row = loop.length - 1 - step if loop.reverse else step
        values = [_row(item, row) for item in items]
        found = interpreter.walk(
            loop.body, [*consts, *carry, *values], carry_out, place
        )
        outs.append(found[len(carry) :])
        carry = found[: len(carry)]
    outs = outs[::-1] if loop.reverse else outs
    return [*carry, *map(_stacked, zip(*outs, strict=True))]


def _row(item: Any, number: int) -> Any:
    return Secret(item.value[number]) if isinstance(item, Secret) else item[number]


def _stacked(rows: Sequence[Any]) -> Any:
    if not any(isinstance(row, Secret) for row in rows):
        return jnp.stack(rows)
    return Secret(
        jnp.stack([row.value if isinstance(row, Secret) else row for row in rows])
    )
