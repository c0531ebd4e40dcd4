"""Carries out a traced JAX program on shares, operation by operation.

`private` is the door to it. What an operation becomes is in `private_forms`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core

from ppml_lab import random
from ppml_lab.smpc import approximations, private_forms, private_values, transcript
from ppml_lab.smpc.scheme import Scheme, Shared

_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
_CALLS += ("custom_vmap_call", "remat2", "checkpoint")
"""Operations that only hold a program."""

APPROXIMATED: dict[str, Callable[..., Any]] = {
    "exp": approximations.exp,
    "logistic": approximations.sigmoid,
    "tanh": approximations.tanh,
    "rsqrt": approximations.inverse_sqrt,
    "sqrt": lambda x: x * approximations.inverse_sqrt(x),
    "div": lambda x, y: x * approximations.reciprocal(y),
}
"""What is replaced by a program of sums, products and comparisons."""


@dataclasses.dataclass
class Run:
    """One evaluation: how values are shared, and what it remembers.

    Attributes:
      seed: Every primitive takes a seed of its own from it.
      scheme: Of fixed-point values.
      fraction_bits: Of theirs.
      truncation: The method.
      encode: Reals to elements.
      num_seeds: How many were taken.
      positive: For values whose sign was asked for, the bit: a ReLU's derivative asks
        again.
      spread: For values that only repeat a smaller one: that one, and how.
      ready: For values that took messages, when they are there in the transcript.
      carried: In a loop's step, what follows from what the step before left.
      waits: Whether messages of a step do so too.
    """

    seed: Any
    scheme: Scheme
    fraction_bits: Any
    truncation: str
    encode: Callable[[Array], Any]
    num_seeds: int = 0
    positive: dict[int, tuple[Shared, Shared]] = dataclasses.field(default_factory=dict)
    spread: dict[int, tuple[Shared, Shared, dict[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    ready: dict[int, tuple[Any, transcript.Moment]] = dataclasses.field(
        default_factory=dict
    )
    carried: dict[int, Any] = dataclasses.field(default_factory=dict)
    waits: bool = False

    def fresh_seed(self) -> Array:
        self.num_seeds += 1
        return random.child(self.seed, self.num_seeds)

    def is_ready(self, value: Any) -> None:
        """Notes that the value is there now, unless it was before."""
        self.ready.setdefault(id(value), (value, transcript.moment()))

    def wait_for(self, *values: Any) -> None:
        """Lets the messages that follow in this scope wait for the values."""
        known = (self.ready[id(v)][1] for v in values if id(v) in self.ready)
        transcript.wait_for(*known)

    def step(
        self, protocol: Callable[[], list[Any]], inputs: Sequence[Any]
    ) -> list[Any]:
        """What a protocol gives, whose messages wait for its inputs alone."""
        with transcript.scope(""):
            self.wait_for(*inputs)
            before = transcript.moment()
            found = protocol()
            for value in found:
                self.is_ready(value)
            if any(id(value) in self.carried for value in inputs):
                self.carried |= {id(value): value for value in found}
                self.waits |= transcript.moment() != before
        return found


def results(run: Run, closed: Any, args: Sequence[Any]) -> list[Any]:
    """The results of a program, shared where they depend on what is."""

    def carry_out(equation: Any, inputs: list[Any]) -> list[Any]:
        if not any(isinstance(value, Shared) for value in inputs):
            return _in_the_clear(equation, inputs)
        name = equation.primitive.name
        if name == "scan":
            return run.step(lambda: _scan(run, equation, inputs), inputs)
        if name == "div" and not isinstance(inputs[1], Shared):
            return form("mul", {}, inputs[0], 1 / inputs[1])
        if name == "div" and id(inputs[1]) in run.spread:
            # The reciprocal of what is repeated, once.
            _, small, how = run.spread[id(inputs[1])]
            (inverse,) = program(approximations.reciprocal, [small])
            (inverse,) = form("broadcast_in_dim", how, inverse)
            return form("mul", {}, inputs[0], inverse)
        if name in APPROXIMATED:
            return program(APPROXIMATED[name], inputs)
        if name not in private_forms.FORMS:
            raise NotImplementedError(
                f"{name} in {_place(equation) or 'the function'} has no private form; "
                "known are "
                f"{', '.join(sorted([*private_forms.FORMS, *APPROXIMATED]))}"
            )
        return form(name, equation.params, *inputs)

    def form(name: str, params: dict[str, Any], *inputs: Any) -> list[Any]:
        protocol = private_forms.FORMS[name]
        return run.step(lambda: [protocol(run, params, *inputs)], inputs)

    def program(function: Callable[..., Any], inputs: list[Any]) -> list[Any]:
        shapes = [private_values.abstract(value) for value in inputs]
        return _walk(jax.make_jaxpr(function)(*shapes), inputs, carry_out)

    with transcript.scope("", parallel=True):
        return _walk(closed, list(args), carry_out)


def _scan(run: Run, equation: Any, inputs: list[Any]) -> list[Any]:
    """A loop of protocols: compiled once, priced as often as it runs.

    All its real carries become shared, as most will. Steps follow each other, unless
    no message of theirs needs what the step before left: then they go at once.
    """
    loop = _loop(equation)
    consts, carry, items = loop.split(inputs)
    carry = [private_values.shared_if_real(run, value) for value in carry]
    seed = run.fresh_seed()
    waits: list[bool] = []

    def body(carry: list[Any], item: tuple[Array, list[Any]]) -> Any:
        place, values = item
        inner = dataclasses.replace(
            run,
            seed=random.child(seed, place),
            num_seeds=0,
            positive={},
            spread={},
            ready={},
            carried={id(value): value for value in carry},
            waits=False,
        )
        found = results(inner, loop.body, [*consts, *carry, *values])
        waits.append(inner.waits)
        new, outs = found[: len(carry)], found[len(carry) :]
        return [private_values.shared_if_real(run, value) for value in new], outs

    places = jnp.arange(loop.length, dtype=jnp.uint32)
    items = [private_values.axes_swapped(value) for value in items]
    with transcript.scope("loop", repeat=loop.length):
        carry, outs = lax.scan(body, carry, (places, items), reverse=loop.reverse)
        if not any(waits):
            transcript.repeat_at_once()
    return [*carry, *map(private_values.axes_swapped, outs)]


def bits_by_layer(
    closed: Any, args: Sequence[Any], fraction_bits: int
) -> dict[str, int]:
    """The most bits that each layer's fixed-point values need, for these arguments."""
    needed: dict[str, int] = {}
    layer = "the function"

    def note(values: list[Any], num_products: int) -> None:
        for value in values:
            if jnp.issubdtype(value.dtype, jnp.floating):
                known = np.asarray(value)
                most = float(np.max(np.abs(known[np.isfinite(known)]), initial=0.0))
                integer = math.ceil(math.log2(most)) if most else 0
                # A sign, and the quarter of the ring that truncation leaves free.
                bits = max(0, integer) + num_products * fraction_bits + 2
                needed[layer] = max(needed.get(layer, 0), bits)

    def carry_out(equation: Any, inputs: list[Any]) -> list[Any]:
        nonlocal layer
        layer = _place(equation) or layer
        name = equation.primitive.name
        by_known = name == "div" and isinstance(inputs[1], np.ndarray)
        if name in APPROXIMATED and not by_known:
            shapes = [private_values.abstract(value) for value in inputs]
            return _walk(jax.make_jaxpr(APPROXIMATED[name])(*shapes), inputs, carry_out)
        if name == "scan":
            return _unrolled(equation, inputs, carry_out)
        found = _in_the_clear(equation, inputs)
        is_product = name in ("mul", "div", "dot_general", "conv_general_dilated")
        # A small factor is scaled up before it is multiplied with.
        small = name == "mul" and any(map(private_values.small_factor, inputs))
        sized = inputs[:1] if by_known else inputs if small else found
        note(sized, 2 if is_product else 1)
        return found

    _walk(closed, list(args), carry_out)
    return needed


def _unrolled(
    equation: Any, inputs: list[Any], carry_out: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """A loop in the clear, step by step."""
    loop = _loop(equation)
    consts, carry, items = loop.split(inputs)
    outs = []
    for step in range(loop.length):
        place = loop.length - 1 - step if loop.reverse else step
        values = [item[place] for item in items]
        found = _walk(loop.body, [*consts, *carry, *values], carry_out)
        outs.append(found[len(carry) :])
        carry = found[: len(carry)]
    outs = outs[::-1] if loop.reverse else outs
    return [*carry, *(jnp.stack(each) for each in zip(*outs, strict=True))]


class _Loop(NamedTuple):
    """A `scan`: its body takes constants, a carry, and an item of each sequence."""

    body: Any
    length: int
    reverse: bool
    num_carry: int
    num_items: int

    def split(self, inputs: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        items = len(inputs) - self.num_items
        carry = items - self.num_carry
        return inputs[:carry], inputs[carry:items], inputs[items:]


def _loop(equation: Any) -> _Loop:
    """What is a sequence has an axis more outside of the body than inside: versions of
    JAX differ in how they say it.
    """
    body = _program_of(equation)

    def num_sequences(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(o.aval.ndim > i.aval.ndim for o, i in pairs)

    num_outs = num_sequences(equation.outvars, body.jaxpr.outvars)
    return _Loop(
        body,
        equation.params["length"],
        equation.params["reverse"],
        len(equation.outvars) - num_outs,
        num_sequences(equation.invars, body.jaxpr.invars),
    )


def _walk(
    closed: Any, args: list[Any], carry_out: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Goes through a program, and through those that it holds, in order."""
    program = closed.jaxpr
    known = dict(zip(program.constvars, closed.consts, strict=True))
    known.update(zip(program.invars, args, strict=True))

    def value_of(atom: Any) -> Any:
        return np.asarray(atom.val) if _is_literal(atom) else known[atom]

    for equation in _needed(program):
        inputs = [value_of(atom) for atom in equation.invars]
        with _scope(equation):
            if equation.primitive.name in _CALLS:
                inner = _program_of(equation)
                count = len(inner.jaxpr.invars)
                found = _walk(inner, inputs[-count:] if count else [], carry_out)
            else:
                found = carry_out(equation, inputs)
        known.update(zip(equation.outvars, found, strict=True))
    return [value_of(atom) for atom in program.outvars]


def _needed(program: Any) -> list[Any]:
    """The equations whose results are used: gradients leave some that are not."""
    used = {atom for atom in program.outvars if not _is_literal(atom)}
    kept = []
    for equation in reversed(program.eqns):
        if used & set(equation.outvars):
            kept.append(equation)
            used |= {atom for atom in equation.invars if not _is_literal(atom)}
    return kept[::-1]


def _program_of(equation: Any) -> Any:
    for name in ("jaxpr", "call_jaxpr", "call"):
        if name in equation.params:
            inner = equation.params[name]
            if not hasattr(inner, "consts"):
                inner = core.ClosedJaxpr(inner, ())
            return inner
    raise NotImplementedError(f"{equation.primitive.name} holds no known program")


def _in_the_clear(equation: Any, inputs: list[Any]) -> list[Any]:
    """By JAX itself; at once where all is known, so that factors stay known."""
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params)
    traced = any(isinstance(value, jax.core.Tracer) for value in inputs)
    with contextlib.nullcontext() if traced else jax.ensure_compile_time_eval():
        found = primitive.bind(*inputs, **params)
    return found if primitive.multiple_results else [found]


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, core.Literal)


def _place(equation: Any) -> str:
    """The layer's name, such as "MLP/Dense_0", or nothing."""
    return str(equation.source_info.name_stack)


@contextlib.contextmanager
def _scope(equation: Any) -> Iterator[None]:
    """The layer's scopes in the transcript, one in the other."""
    with contextlib.ExitStack() as scopes:
        for name in filter(None, _place(equation).split("/")):
            scopes.enter_context(transcript.scope(name, parallel=True))
        yield
