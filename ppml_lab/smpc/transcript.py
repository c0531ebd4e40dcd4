"""The record of what a protocol sends and shows, written while the protocol is traced.

Sizes and rounds follow from shapes, so a protocol notes them in passing, as Python
integers, outside of the compiled program. `priced` traces without running.

A round is one exchange: all who send in it do so at once, one way. Scopes follow each
other in the program's order, except inside a `parallel` scope: there `moment` and
`wait_for` say what has to wait for what, so that rounds are the depth of the data flow.
`private.evaluate` does so within its function, but not between calls: put independent
work into one function or into a `parallel` scope.

Code under `vmap` or in a loop's body is traced once and so counted once: say how often
it happens with `scope(name, repeat=...)`.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import jax
from jax.extend import core

from ppml_lab import checks
from ppml_lab.smpc import network, rounds
from ppml_lab.smpc.network import Network

Party = int | str
"""A computing party's number, or the name of somebody else, such as "client"."""

SEED_BITS = 256
"""Bits of a seed in a message, as in a deployment; the emulation's seeds have 64."""


class Message(NamedTuple):
    """A message from one party to another.

    Attributes:
      path: The scopes around the message and its name: "layer/multiply/opened".
      sender: Who sends.
      receiver: Who receives.
      num_bits: Bits of all repetitions together.
      round_number: The protocol's round, from 0; with repetitions, the first one's.
      offline: Whether it depends on no input and is sent before, which costs no round.
    """

    path: str
    sender: Party
    receiver: Party
    num_bits: int
    round_number: int
    offline: bool = False


class Reveal(NamedTuple):
    """A value that stops being secret.

    Attributes:
      path: The scopes around the value and its name.
      scheme: How the value was shared.
      shape: The secret's shape.
      receivers: Who learns the value.
    """

    path: str
    scheme: Any
    shape: tuple[int, ...]
    receivers: tuple[Party, ...]


class View(NamedTuple):
    """An array that parties are shown.

    Attributes:
      path: The scopes around the array and its name.
      receivers: Who sees the array.
      value: An element of a ring.
    """

    path: str
    receivers: tuple[Party, ...]
    value: Any


class Moment(NamedTuple):
    """The time at which something is ready, by open recording; made by `moment`."""

    times: tuple[tuple[Recorder, int], ...]


class Recorder:
    """All that was sent and shown since `recording` began, in order.

    Sums are over one of `scopes`, such as "layer/multiply", or a message's path; "" is
    everything. `scopes` has all scopes, sending or not, outer before inner. Sums count
    what is sent online or, if `offline`, what is sent before there are inputs.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reveals: list[Reveal] = []
        self.views: list[View] = []
        self.scopes: dict[str, None] = {}
        self._times: list[rounds.Time] = []
        self._frames = [rounds.Frame("", 0, 1, False, 1)]
        self._traces = [core.get_opaque_trace_state()]

    def sent_bits(
        self, party: Party | None = None, scope: str = "", *, offline: bool = False
    ) -> int:
        """The bits that one party sends, or all parties together."""
        return sum(
            message.num_bits
            for message in self._some(scope, offline)
            if party in (None, message.sender)
        )

    def received_bits(
        self, party: Party | None = None, scope: str = "", *, offline: bool = False
    ) -> int:
        """The bits that one party receives, or all parties together."""
        return sum(
            message.num_bits
            for message in self._some(scope, offline)
            if party in (None, message.receiver)
        )

    def _some(self, scope: str, offline: bool) -> Iterator[Message]:
        for message in self.messages:
            if message.offline == offline and _lies_in(message.path, scope):
                yield message

    def num_rounds(self, scope: str = "") -> int:
        """The number of rounds of messages that wait for each other.

        For a scope, only rounds in which it sends something count. Scopes may share
        rounds, so their numbers add up to more than the total.

        Raises:
          ValueError: If there was no such scope.
        """
        if not scope:
            return self._frames[0].end
        paths = {*self.scopes, *(message.path for message in self.messages)}
        checks.known("scope", scope, paths - {""})
        return rounds.num_distinct(
            {
                time
                for message, time in zip(self.messages, self._times, strict=True)
                if not message.offline and _lies_in(message.path, scope)
            }
        )

    def seconds(self, links: Network, scope: str = "") -> float:
        """The seconds that messages take: half a round trip per round, and the bits of
        the busiest link, by party and direction (`network.seconds`).
        """
        busiest = max(
            (
                way(party, scope)
                for party in self.parties()
                for way in (self.sent_bits, self.received_bits)
            ),
            default=0,
        )
        return network.seconds(busiest, links, exchanges=self.num_rounds(scope))

    def parties(self) -> tuple[Party, ...]:
        """All parties that send or receive, computing parties first."""
        found = {p for m in self.messages for p in (m.sender, m.receiver)}
        return tuple(sorted(found, key=lambda p: (isinstance(p, str), p)))

    def by_path(self, *, offline: bool = False) -> dict[str, dict[Party, int]]:
        """The bits that each party sends, for every message's path and every scope
        around a message, outer scopes before inner ones.
        """
        tree: dict[str, dict[Party, int]] = {}
        for message in self._some("", offline):
            names = message.path.split("/")
            for depth in range(1, len(names) + 1):
                node = tree.setdefault("/".join(names[:depth]), {})
                sent = node.get(message.sender, 0)
                node[message.sender] = sent + message.num_bits
        return tree

    def _enter(self, name: str, inputs: bool, *how: Any) -> None:
        outer = self._frames[-1]
        start = outer.child_start(inputs=inputs)
        frame = rounds.Frame(outer.child_path(name), start, *how)
        self._frames.append(frame)
        self.scopes[frame.path] = None

    def _exit(self, inputs: bool) -> None:
        inner, outer = self._frames.pop(), self._frames[-1]
        outer.includes(inner.last_end())
        if inputs:
            outer.inputs = inner.start
        if not outer.parallel:
            outer.now = outer.end

    def _message(self, noted: Message) -> None:
        frame, num_bits = self._frames[-1], Fraction(noted.num_bits)
        for open_frame in self._frames:
            num_bits *= open_frame.repeat * open_frame.sent
        when = 0 if noted.offline else frame.now + noted.round_number
        if not noted.offline:
            frame.includes(when + 1)
        path = frame.child_path(noted.path)
        self.messages.append(
            noted._replace(path=path, num_bits=int(num_bits), round_number=when)
        )
        loops = tuple(frame for frame in self._frames if frame.repeat != 1)
        self._times.append(rounds.Time(loops, when))

    def _is_new_trace(self) -> bool:
        """Returns whether nothing was recorded yet in the current trace."""
        trace = core.get_opaque_trace_state()
        if trace in self._traces:
            return False
        self._traces.append(trace)
        return True

    def _view(self, name: str, receivers: tuple[Party, ...], value: Any) -> None:
        self.views.append(View(self._frames[-1].child_path(name), receivers, value))

    def _reveal(self, name: str, *rest: Any) -> None:
        self.reveals.append(Reveal(self._frames[-1].child_path(name), *rest))


_active: contextvars.ContextVar[tuple[Recorder, ...]] = contextvars.ContextVar(
    "_active", default=()
)
# Part of the key of jax's caches, so that a program traced before is traced again.
_tracing = jax.make_user_context(None)


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Records what this thread traces inside.

    Functions under `jax.jit` that record something are traced, and so compiled, again
    whenever they are called in a recording: otherwise a program in jax's cache would
    seem to send nothing. Recordings nest; every open one sees everything.
    """
    recorder = Recorder()
    token = _active.set((*_active.get(), recorder))
    try:
        with _tracing(object()):
            yield recorder
    finally:
        _active.reset(token)


def _recorders() -> tuple[Recorder, ...]:
    """The open recorders, asked for by a program that records something now."""
    # A program in which something is recorded must not come from jax's caches when it
    # is called again: they are keyed by the context in which its trace began.
    recorders = _active.get()
    if any([recorder._is_new_trace() for recorder in recorders]):
        _tracing(object()).__enter__()
    return recorders


def active() -> tuple[Recorder, ...]:
    """The open recorders of this thread."""
    return _active.get()


@contextlib.contextmanager
def scope(
    name: str,
    *,
    repeat: int = 1,
    parallel: bool = False,
    inputs: bool = False,
    sent: Fraction | int = 1,
) -> Iterator[None]:
    """Puts `name` before the names of what is recorded inside.

    A scope starts when all before it in the outer scope has ended, so rounds add up.

    Args:
      name: A layer or primitive, "/" between levels; "" if only rounds matter.
      repeat: How often the inside happens for each time that it is traced.
      parallel: Whether the scopes directly inside, and the repetitions, happen at once,
        apart from what they `wait_for`: the most rounds count, not their sum.
      inputs: Whether what is sent inside depends on nothing that was received; it then
        goes out together with the inputs right before it, whoever sends them.
      sent: The part of the noted bits that is sent, where more is computed.

    Raises:
      ValueError: If `repeat` is not at least 0.
    """
    checks.at_least("repeat", repeat, 0)
    recorders = _active.get()
    for recorder in recorders:
        recorder._enter(name, inputs, repeat, parallel, sent)
    try:
        yield
    finally:
        for recorder in recorders:
            recorder._exit(inputs)


def moment() -> Moment:
    """The moment at which all that this scope has recorded so far has ended."""
    return Moment(tuple((each, each._frames[-1].end) for each in _active.get()))


def repeat_at_once() -> None:
    """Declares that the repetitions of this scope, whose inside was recorded, need
    nothing of each other, so that they share their rounds.
    """
    for recorder in _active.get():
        recorder._frames[-1].parallel = True


def wait_for(*moments: Moment) -> None:
    """Lets what is recorded next in this scope start no earlier than these moments."""
    recorders = _active.get()
    for recorder, until in (pair for each in moments for pair in each.times):
        if recorder in recorders:
            recorder._frames[-1].waits(until)


def at_once(*protocols: Callable[[], Any]) -> list[Any]:
    """The results of protocols that do not need each other and so share rounds."""
    found = []
    with scope("", parallel=True):
        for protocol in protocols:
            with scope(""):
                found.append(protocol())
    return found


def record_message(
    name: str,
    sender: Party,
    receiver: Party,
    num_bits: int,
    protocol_round: int = 0,
    *,
    offline: bool = False,
) -> None:
    """Notes that `sender` sends `num_bits` to `receiver`, if anybody records.

    Args:
      name: What is sent.
      sender: Who sends.
      receiver: Who receives.
      num_bits: A Python integer.
      protocol_round: Rounds between the last scope's end (or this one's start) and the
        message; what is sent in one round does not wait for what others send in it.
      offline: Whether it is sent before there are inputs, as a dealer's messages are.
    """
    noted = Message(name, sender, receiver, num_bits, protocol_round, offline)
    for recorder in _recorders():
        recorder._message(noted)


def record_view(name: str, receivers: tuple[Party, ...], value: Any) -> None:
    """Keeps a value that `receivers` are shown, if anybody records; the recorder's
    `views` are arrays of the current trace and may leave it as results.
    """
    for recorder in _recorders():
        recorder._view(name, receivers, value)


def record_reveal(
    name: str, scheme: Any, shape: tuple[int, ...], receivers: tuple[Party, ...]
) -> None:
    """Notes that `receivers` learn a value, if anybody records."""
    for recorder in _recorders():
        recorder._reveal(name, scheme, shape, receivers)


def priced(function: Callable[..., Any], *args: Any) -> Recorder:
    """Records what `function(*args)` sends and shows, without running it.

    Args:
      function: A function of arrays; static arguments must be bound before.
      *args: Trees of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The recorder of its trace; a recording around this one sees nothing of it.
    """
    token = _active.set(())
    try:
        with recording() as recorder:
            jax.eval_shape(lambda *inputs: function(*inputs), *args)
    finally:
        _active.reset(token)
    return recorder


def _lies_in(path: str, scope: str) -> bool:
    return not scope or path == scope or path.startswith(scope + "/")
