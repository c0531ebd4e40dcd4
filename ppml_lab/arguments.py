"""Checks of arguments against their annotations: a clear error where a thing is built,
in place of one from somewhere inside it.

`@arguments.checked` looks only at each argument's kind: a number, a text, a sampler.
Functions check ranges themselves (`checks`). Traced values pass.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import itertools
import numbers
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, SupportsFloat, SupportsInt, TypeVar, Union

import jax
import jaxtyping
import numpy as np

from ppml_lab import checks, shown

F = TypeVar("F", bound=Callable[..., Any])

_MAKERS = {
    "Clients": "data.federate makes them",
    "ClientSampler": "make one, for example with federated.poisson",
    "ClientTrainer": "make one, for example with federated.local_sgd",
    "DpEvent": "events.gaussian makes one",
    "Errors": "evidence.halves makes them",
    "FederatedAlgorithm": "make one with federated.averaging",
    "Generator": "make one with numpy.random.default_rng(seed)",
    "GradientTransformation": "give an optax optimizer, such as optax.sgd(0.1)",
    "Graph": "graphs.complete makes one",
    "Ledger": "ledger.Ledger() makes an empty one",
    "Mesh": "federated.client_mesh makes one",
    "Module": "give an instance of a flax module, such as models.MLP((64, 10))",
    "People": "data.people counts them",
    "Point": "lab.points makes them",
    "PrivacyEvent": "a mechanism's or an algorithm's `event` makes one",
    "Result": "lab.run_experiment passes one per run to `table`",
    "Alive": "dropouts.everybody makes one",
    "Code": "lightsecagg.Code makes one",
    "Scheme": "make one with sharing.additive or sharing.replicated",
    "Shared": "sharing.share makes one",
    "PrivacyMechanism": "make one, for example with dp.gaussian",
    "Protocol": "private.protocol makes one",
    "SecureAggregator": "make one, for example with smpc.additive_sharing",
    "Server": "make one with federated.fedopt",
    "Setting": "make one, for example with lab.axis",
    "Task": "make one with models.flax_classification or models.classification",
}
"""Hints for errors: what makes a value of a type, by the type's name."""


class _Kind(NamedTuple):
    """The kind of value that an annotation asks for.

    Attributes:
      words: The kind's name in an error.
      fits: `(value)`: True for a value of this kind, which is not traced.
      maker: What makes such a value, or "".
      plain: `(value)`: what the function gets in its place, such as Python's own number
        for one of numpy's.
    """

    words: str
    fits: Callable[[Any], bool]
    maker: str = ""
    plain: Callable[[Any], Any] = lambda value: value


def checked(function: F) -> F:
    """Wraps `function` to raise ValueError, naming the argument, for any argument that
    is not of its annotation's kind: an integer of 64 bits, a number (no truth value), a
    text, a function, an array with these axes, one of the lab's types.
    """
    signature = inspect.signature(function)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.VAR_POSITIONAL
    ]
    others = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.VAR_POSITIONAL
    ]
    if others:
        names = names[: list(signature.parameters).index(others[0])]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        kinds = _kinds(inspect.unwrap(function))
        placed = itertools.chain(names, itertools.repeat(others[0] if others else ""))
        args = tuple(_taken(kinds, next(placed), value) for value in args)
        kwargs = {name: _taken(kinds, name, value) for name, value in kwargs.items()}
        made = function(*args, **kwargs)
        shown.note(made, function, args, kwargs)
        return made

    return typing.cast(F, call)


def _taken(kinds: dict[str, _Kind], name: str, value: Any) -> Any:
    """Returns the argument for the function; raises ValueError unless it fits."""
    kind = kinds.get(name)
    if kind is _KEY:
        checks.key(name, value)
    if kind is None or checks.is_traced(value):
        return value
    if kind.fits(value):
        return kind.plain(value)
    text = checks.cut(" ".join(repr(value).split()))
    maker = f"; {kind.maker}" if kind.maker else ""
    raise ValueError(f"{name} must be {kind.words}, got {text}{maker}")


_FOUND: dict[types.CodeType, dict[str, _Kind]] = {}


def _kinds(function: Callable[..., Any]) -> dict[str, _Kind]:
    """The kinds of the annotated arguments, without those that may be anything.

    Inner functions, which are made again and again, share the entry of their code.
    """
    code = function.__code__
    if code not in _FOUND:
        hints = typing.get_type_hints(function)
        hints.pop("return", None)
        found = {name: _kind(name, hint) for name, hint in hints.items()}
        _FOUND[code] = {name: kind for name, kind in found.items() if kind is not None}
    return _FOUND[code]


def _kind(name: str, hint: Any) -> _Kind | None:
    """The kind that an annotation asks for; None where it says nothing."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if hint is jax.Array:
        return _KEY if name == "key" or name.endswith("_key") else _ARRAY
    if origin in (Union, types.UnionType):
        return _any_of([_kind(name, part) for part in inner])
    if origin is Literal:
        words = " or ".join(map(repr, inner))
        return _Kind(words, lambda value: isinstance(value, str) and value in inner)
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return _Kind("a function", callable)
    if origin in (tuple, list) or origin in _SEVERAL:
        return _several(name, origin, inner)
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return _array(hint)
    if isinstance(hint, type) and _says_something(hint):
        maker = _MAKERS.get(hint.__name__, "")
        words = f"a {hint.__name__}"
        return _Kind(words, lambda value: isinstance(value, hint), maker)
    return None


def _says_something(hint: type) -> bool:
    is_protocol = getattr(hint, "_is_protocol", False)
    says_nothing = hint in (Any, object) or "PyTree" in hint.__name__
    return not (says_nothing or is_protocol)


def _any_of(kinds: list[_Kind | None]) -> _Kind | None:
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None
    words = dict.fromkeys(kind.words for kind in known)
    makers = [kind.maker for kind in known if kind.maker]
    return _Kind(
        " or ".join(words),
        lambda value: any(kind.fits(value) for kind in known),
        makers[0] if makers else "",
        lambda value: next(kind for kind in known if kind.fits(value)).plain(value),
    )


def _several(name: str, origin: Any, inner: tuple[Any, ...]) -> _Kind:
    """The kind of a sequence, mapping and the like; a text is no sequence of texts."""
    words = _SEVERAL.get(origin, "a tuple")
    is_sequence = origin not in (dict, collections.abc.Mapping)
    each = _kind(name, inner[0]) if is_sequence and inner else None
    if origin is tuple and Ellipsis not in inner:
        each = None

    def fits(value: Any) -> bool:
        if not isinstance(value, origin) or isinstance(value, str | bytes):
            return False
        # An iterator would be empty afterwards.
        if each is None or not isinstance(value, collections.abc.Collection):
            return True
        return all(checks.is_traced(one) or each.fits(one) for one in value)

    if each is not None:
        words += f" whose items are each {each.words}"
    return _Kind(words, fits, "" if each is None else each.maker)


_SEVERAL = {
    collections.abc.Sequence: "a sequence",
    collections.abc.Collection: "a collection",
    collections.abc.Iterable: "an iterable (not a string)",
    collections.abc.Mapping: "a mapping",
    dict: "a dict",
    list: "a list",
}

_DTYPES = {"Bool": "b", "Int": "iu", "UInt": "u", "UInt32": "u", "Float": "fiuV"}
_DEFAULTS = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}


def _array(hint: Any) -> _Kind:
    """The kind of an array of the annotation's type and axes; numbers of any width."""
    kinds = _DTYPES.get(hint.__name__.split("[")[0], "")
    axes = hint.dim_str.strip()
    last = (axes.split() or [""])[-1]
    count = len(axes.split()) if not set(axes) & set("*.?") else None

    def fits(value: Any) -> bool:
        array = value if isinstance(value, jax.Array) else _as_array(value)
        kind = getattr(getattr(array, "dtype", None), "kind", "")
        if array is None or (kinds and kind not in kinds) or not kind:
            return False
        if last.isdigit() and array.shape[-1:] != (int(last),):
            return False
        return count is None or array.ndim == count

    def plain(value: Any) -> Any:
        if isinstance(value, jax.Array) or hint.array_type is not np.ndarray:
            return value
        array = np.asarray(value)
        return array if isinstance(array, hint) else array.astype(_DEFAULTS[kinds[0]])

    kind = hint.__name__.split("[")[0].lower()
    words = f"an array [{', '.join(axes.split())}] of kind {kind}"
    return _Kind(words, fits, plain=plain)


def _as_array(value: Any) -> np.ndarray | None:
    if isinstance(value, str | bytes | None):
        return None
    try:
        return np.asarray(value)
    except ValueError:
        return None


def _is_number(value: Any) -> bool:
    try:
        checks.number("value", value)
    except ValueError:
        return False
    return True


def _is_integer(value: Any) -> bool:
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    is_scalar = getattr(value, "ndim", None) == 0 and kind in "iu" and kind != ""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return (is_scalar or is_whole) and -(2**63) <= int(value) < 2**63


def _is_key(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    is_key = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    return is_key and value.shape == ()


def _is_path(value: Any) -> bool:
    # An empty text would be the current folder.
    return isinstance(value, Path) or (isinstance(value, str) and bool(value.strip()))


def _item(value: Any) -> Any:
    """Returns a number of numpy or jax as one of Python."""
    return value.item() if hasattr(value, "item") else value


_NUMBER = _Kind("a number", _is_number, plain=_item)
_ARRAY = _Kind("an array", lambda value: hasattr(value, "dtype"))
_KEY = _Kind("a typed key", _is_key, "jax.random.key(seed) makes one")
_PLAIN: dict[Any, _Kind] = {
    int: _Kind("a 64-bit integer", _is_integer, plain=_item),
    float: _NUMBER,
    SupportsFloat: _NUMBER,
    # Accountants take whole numbers of any type, and say so.
    SupportsInt: _Kind("a number", _is_number),
    bool: _Kind(
        "True or False", lambda value: isinstance(value, bool | np.bool_), plain=bool
    ),
    str: _Kind("a string", lambda value: isinstance(value, str)),
    type(None): _Kind("None", lambda value: value is None),
}
_PLAIN |= dict.fromkeys(
    (Path, str | Path),
    _Kind("the path of a file or folder", _is_path, plain=Path),
)
