"""Carries out a traced JAX program on shares, operation by operation.

`private` is the public interface; `private_forms` says what each operation becomes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core

from ppml_lab import checks, random
from ppml_lab.smpc import loops, transcript
from ppml_lab.smpc.computing import approximations, private_forms, private_functions
from ppml_lab.smpc.computing import private_values as values
from ppml_lab.smpc.computing.private_values import Call
from ppml_lab.smpc.scheme import Scheme, Shared, shape_of
from ppml_lab.smpc.streams import Stream

_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
_CALLS += ("custom_vmap_call", "remat2", "checkpoint")
"""Operations that only hold a program."""

CarryOut = Callable[[Any, list[Any], str], list[Any]]
"""A function of `(equation, inputs, place)` to the equation's results."""


@dataclasses.dataclass
class Run:
    """One evaluation: how its values are shared, and what it remembers.

    Attributes:
      stream: The stream of all randomness; nothing in it is used twice.
      scheme: The scheme of fixed-point values.
      fraction_bits: Fraction bits of fixed-point values.
      truncation: The method of truncation.
      missing: If given, notes by layer what has no private form, with made-up results.
      place: The layer that the program is a part of.
      positive: The sign bit of each value whose sign was asked for: a ReLU's derivative
        asks again.
      spread: For a value that only repeats a smaller one: the value, the smaller one,
        and how to repeat it.
      ready: For a value that took messages, the moment when it is ready.
      carried: In a loop's step, the values that depend on the step before.
      waits: Whether messages of a loop's step depend on the step before.
    """

    stream: Stream
    scheme: Scheme
    fraction_bits: Any
    truncation: str
    missing: dict[str, list[str]] | None = None
    place: str = ""
    positive: dict[int, tuple[Shared, Shared]] = dataclasses.field(default_factory=dict)
    spread: dict[int, tuple[Shared, Shared, Callable[..., Shared]]] = dataclasses.field(
        default_factory=dict
    )

    ready: dict[int, tuple[Any, transcript.Moment]] = dataclasses.field(
        default_factory=dict
    )
    carried: dict[int, Any] = dataclasses.field(default_factory=dict)
    waits: bool = False

    def program(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs a function of arrays, some of them shared, that has one result."""
        shapes = [values.abstract(value) for value in args]
        (found,) = results(self, jax.make_jaxpr(function)(*shapes), list(args))
        return found

    def is_ready(self, value: Any) -> None:
        """Notes that the value is ready now, unless it was ready before."""
        self.ready.setdefault(id(value), (value, transcript.moment()))

    def wait_for(self, *values: Any) -> None:
        """Lets the messages that follow in this scope wait for the values."""
        known = (self.ready[id(v)][1] for v in values if id(v) in self.ready)
        transcript.wait_for(*known)

    def step(
        self, protocol: Callable[[], list[Any]], inputs: Sequence[Any]
    ) -> list[Any]:
        """Runs a protocol whose messages wait for its inputs alone."""
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


def traced(
    function: Callable[..., Any], leaves: list[Any], tree: Any
) -> tuple[Any, Any]:
    """A function's program, with arrays for shared leaves, and its output's tree."""

    def of_leaves(*values: Array) -> Any:
        return function(*jax.tree.unflatten(tree, values))

    shapes = [
        jax.ShapeDtypeStruct(shape_of(leaf), jnp.float32)
        if isinstance(leaf, Shared)
        else jax.typeof(jnp.asarray(leaf))
        for leaf in leaves
    ]
    closed, out = jax.make_jaxpr(of_leaves, return_shape=True)(*shapes)
    return closed, jax.tree.structure(out)


def results(run: Run, closed: Any, args: Sequence[Any]) -> list[Any]:
    """The results of a program, shared where they depend on shared values."""

    def carry_out(equation: Any, inputs: list[Any], place: str) -> list[Any]:
        if not any(isinstance(value, Shared) for value in inputs):
            return in_the_clear(equation, inputs)
        try:
            return run.step(lambda: _by_form(run, equation, inputs, place), inputs)
        except NotImplementedError as error:
            where = place or "the function"
            message = str(error) or equation.primitive.name
            if run.missing is None:
                raise NotImplementedError(f"{message} (in {where})") from None
            noted = run.missing.setdefault(where, [])
            if message not in noted:
                noted.append(message)
            return [_made_up(run, out.aval) for out in equation.outvars]

    with transcript.scope("", parallel=True):
        return walk(closed, list(args), carry_out, run.place)


def _by_form(run: Run, equation: Any, inputs: list[Any], place: str) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(run, equation, inputs, place)
    if name == "cond":
        return _branch(run, equation, inputs, place)
    if (whole := whole_name(equation)) is not None:
        return [private_functions.WHOLE[whole](run, *inputs)]
    if name not in private_forms.FORMS:
        raise NotImplementedError(f"{name} has no private form")
    ins, outs = ([v.aval for v in some] for some in (equation.invars, equation.outvars))
    call = Call(name, params, ins, outs)
    found = private_forms.FORMS[name](run, call, *inputs)
    found = found if isinstance(found, list) else [found]
    call.check(found)
    return found


def whole_name(equation: Any) -> str | None:
    """The name of the function of `approximations` that a program calls, or None."""
    name = str(equation.params.get("name", ""))
    is_whole = equation.primitive.name in _CALLS
    is_whole = is_whole and name.startswith(approximations.PREFIX)
    return name.removeprefix(approximations.PREFIX) if is_whole else None


def _made_up(run: Run, aval: Any) -> Shared:
    return values.of_type(run, np.zeros(aval.shape, aval.dtype), aval.dtype)


def _within(run: Run, stream: Stream, place: str) -> Run:
    """The run of an inner program."""
    return Run(
        stream, run.scheme, run.fraction_bits, run.truncation, run.missing, place
    )


def _branch(run: Run, equation: Any, inputs: list[Any], place: str) -> list[Any]:
    which, *operands = inputs
    if isinstance(which, Shared) or checks.is_traced(which):
        raise NotImplementedError(
            "cond has a private form only for conditions that are known when the "
            "program is traced; use jnp.where"
        )
    branches = equation.params["branches"]
    number = min(max(int(which), 0), len(branches) - 1)
    outs = results(_within(run, run.stream, place), branches[number], operands)
    return [
        out if isinstance(out, Shared) else values.of_type(run, out, var.aval.dtype)
        for out, var in zip(outs, equation.outvars, strict=True)
    ]


def _scan(run: Run, equation: Any, inputs: list[Any], place: str) -> list[Any]:
    """A loop of protocols: compiled once, priced as often as it runs.

    A carry is shared from the start where it is ever shared. Steps follow each other,
    unless none of their messages depends on the step before: then they happen at once.
    """
    loop = loop_of(equation)
    consts, carry, items = loop.split(inputs)
    types = [atom.aval.dtype for atom in loop.body.jaxpr.outvars]
    kept = _shared_carries(loop, [isinstance(value, Shared) for value in inputs])

    def as_kept(found: list[Any]) -> list[Any]:
        return [
            values.of_type(run, value, dtype) if is_kept else jnp.asarray(value, dtype)
            for value, is_kept, dtype in zip(found, kept, types, strict=False)
        ]

    carry = as_kept(carry)
    seed = run.stream.seed()
    waits: list[bool] = []

    def body(carry: list[Any], item: tuple[Array, list[Any]]) -> Any:
        number, parts = item
        inner = _within(run, Stream(random.child(seed, number)), place)
        inner.carried = {id(value): value for value in carry}
        found = results(inner, loop.body, [*consts, *carry, *parts])
        waits.append(inner.waits)
        return as_kept(found[: len(carry)]), found[len(carry) :]

    numbers = jnp.arange(loop.length, dtype=jnp.uint32)
    items = [values.axes_swapped(value) for value in items]
    with transcript.scope("loop", repeat=loop.length):
        carry, outs = loops.scan(body, carry, (numbers, items), reverse=loop.reverse)
        if not any(waits):
            transcript.repeat_at_once()
    return [*carry, *map(values.axes_swapped, outs)]


def _shared_carries(loop: Loop, shared: list[bool]) -> list[bool]:
    consts, carry, items = loop.split(shared)
    while True:
        found = _shared_outs(loop.body, [*consts, *carry, *items])[: len(carry)]
        more = [one or other for one, other in zip(carry, found, strict=True)]
        if more == carry:
            return carry
        carry = more


def _shared_outs(closed: Any, shared: Sequence[bool]) -> list[bool]:
    """True for each result of a program that is shared, given which arguments are."""
    program = closed.jaxpr
    known = {atom for atom, is_it in zip(program.invars, shared, strict=True) if is_it}
    for equation in program.eqns:
        ins = [not _is_literal(a) and a in known for a in equation.invars]
        if equation.primitive.name in _CALLS:
            inner = _program_of(equation)
            count = len(inner.jaxpr.invars)
            outs = _shared_outs(inner, ins[-count:] if count else [])
        elif equation.primitive.name == "scan":
            loop = loop_of(equation)
            consts, _, items = loop.split(ins)
            carry = _shared_carries(loop, ins)
            rest = _shared_outs(loop.body, [*consts, *carry, *items])
            outs = [*carry, *rest[len(carry) :]]
        else:
            outs = [any(ins)] * len(equation.outvars)
        known |= {a for a, is_it in zip(equation.outvars, outs, strict=True) if is_it}
    return [not _is_literal(a) and a in known for a in program.outvars]


class Loop(NamedTuple):
    """A `scan`: its body takes constants, a carry, and an item of each sequence."""

    body: Any
    length: int
    reverse: bool
    num_carry: int
    num_items: int

    def split(self, inputs: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """The loop's inputs apart: constants, first carries, and sequences."""
        items = len(inputs) - self.num_items
        carry = items - self.num_carry
        return inputs[:carry], inputs[carry:items], inputs[items:]


def loop_of(equation: Any) -> Loop:
    """The loop of a `scan` equation.

    Sequences have an axis more outside of the body than inside; versions of JAX differ
    in how they mark them.
    """
    body = _program_of(equation)

    def num_sequences(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(o.aval.ndim > i.aval.ndim for o, i in pairs)

    num_outs = num_sequences(equation.outvars, body.jaxpr.outvars)
    return Loop(
        body,
        equation.params["length"],
        equation.params["reverse"],
        len(equation.outvars) - num_outs,
        num_sequences(equation.invars, body.jaxpr.invars),
    )


def walk(
    closed: Any, args: list[Any], carry_out: CarryOut, place: str = ""
) -> list[Any]:
    """Carries out a program, and the programs that it holds, in order."""
    program = closed.jaxpr
    known = dict(zip(program.constvars, closed.consts, strict=True))
    known.update(zip(program.invars, args, strict=True))

    def value_of(atom: Any) -> Any:
        return np.asarray(atom.val) if _is_literal(atom) else known[atom]

    for equation in _needed(program):
        inputs = [value_of(atom) for atom in equation.invars]
        stack = str(equation.source_info.name_stack)
        here = "/".join(filter(None, (place, stack)))
        with _scope(stack):
            if equation.primitive.name in _CALLS and whole_name(equation) is None:
                inner = _program_of(equation)
                count = len(inner.jaxpr.invars)
                found = walk(inner, inputs[-count:] if count else [], carry_out, here)
            else:
                found = carry_out(equation, inputs, here)
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
    raise NotImplementedError(
        f"{equation.primitive.name} has no program inside that the lab can read"
    )


def in_the_clear(equation: Any, inputs: list[Any]) -> list[Any]:
    """Carries out an equation by JAX; at once if all is known: factors stay known."""
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params)
    traced = any(map(checks.is_traced, inputs))
    with contextlib.nullcontext() if traced else jax.ensure_compile_time_eval():
        found = primitive.bind(*inputs, **params)
    return found if primitive.multiple_results else [found]


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, core.Literal)


@contextlib.contextmanager
def _scope(stack: str) -> Iterator[None]:
    """Opens a layer's scopes in the transcript, one in the other: "MLP/Dense_0"."""
    with contextlib.ExitStack() as scopes:
        for name in filter(None, stack.split("/")):
            scopes.enter_context(transcript.scope(name, parallel=True))
        yield
