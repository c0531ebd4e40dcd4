"""The identity of a setup: a text that differs wherever a result could differ.

`dataclasses.asdict` does not serve, because it forgets classes: `Gaussian(1, 1)` and
`LocalGaussian(1, 1)` would be one run.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import sys
import types
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppml_lab import trees
from ppml_lab.data import files
from ppml_lab.lab.tree import paths
from ppml_lab.lab.tree.fields import (
    gives_same_bits,
    is_part,
    may_be_number,
    names_file,
)


def digest(*values: Any, same_bits: bool = False, without: Collection[str] = ()) -> str:
    """Returns a digest of values, as 64 hexadecimal digits.

    Args:
      *values: Parts, plain values, functions that can be imported, and tuples of these.
      same_bits: Whether fields annotated `lab.SameBits` are left out.
      without: Fields of the values themselves (not of parts in them) that are left out.

    Raises:
      ValueError: For a value that has no name, such as a lambda; says where it is.
    """
    told = [described(one, same_bits=same_bits, without=without) for one in values]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def described(
    value: Any,
    where: str = "setup",
    *,
    same_bits: bool = False,
    without: Collection[str] = (),
    within: tuple[type, ...] = (),
) -> Any:
    """Returns a value as JSON has it: classes and functions as import paths, numbers as
    programs get them (float32), arrays as digests.

    Args:
      value: A part, a value in a part, or a value that a local class captures.
      where: The value's key path, for errors.
      same_bits: Whether fields annotated `lab.SameBits` are left out.
      without: Names of fields of `value` itself that are left out.
      within: Local classes that are being described; they may refer to themselves.

    Raises:
      ValueError: As `digest`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, enum.Enum):
        return {path_of(type(value)): value.name}
    if isinstance(value, np.dtype):
        return {"dtype": str(value)}
    if isinstance(value, types.ModuleType):
        return {"module": value.__name__}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return {"array": trees.digest(np.asarray(value))}
    if isinstance(value, type):
        return {"class": path_of(value)} | _captured(value, where, within)
    told = functools.partial(described, same_bits=same_bits, within=within)
    if isinstance(value, tuple | list):
        each = [told(one, f"{where}.{i}") for i, one in enumerate(value)]
        return each if type(value) is tuple else {path_of(type(value)): each}
    if isinstance(value, dict):
        return {"dict": [[told(k, where), told(v, where)] for k, v in value.items()]}
    if is_part(value) or dataclasses.is_dataclass(value):
        fields = _fields(value, where, same_bits, without, told)
        return told(type(value), where) | {"fields": fields}
    return {"function": _import_path(value, where)}


def check_classes(setups: Iterable[Any]) -> None:
    """Raises ValueError if two classes of parts have the same name.

    Runs of one class would be taken for runs of the other. Local classes differ by what
    they capture.
    """
    known: dict[str, type] = {}
    for cls in {type(one) for setup in setups for one in paths.parts_below(setup)}:
        name = json.dumps(described(cls), sort_keys=True)
        if known.setdefault(name, cls) is not cls:
            raise ValueError(
                f"two classes of parts are called {path_of(cls)}; rename one of them, "
                "as runs are named after their parts"
            )


def path_of(thing: Any) -> str:
    """Returns `module.qualname` of a class or function.

    It is the same whether its module is imported or run by `python -m`.
    """
    module = thing.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec else Path(file).stem if file else module
    return f"{module}.{thing.__qualname__}"


def _fields(
    value: Any, where: str, same_bits: bool, without: Collection[str], told: Any
) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(value):
        kind = field.type
        if field.name in without or (same_bits and gives_same_bits(kind)):
            continue
        held = getattr(value, field.name)
        if is_part(value) and may_be_number(kind) and isinstance(held, float):
            held = float(np.float32(held)) + 0.0  # -0.0 is 0.0
        if is_part(value) and names_file(kind):
            held = _content(held, f"{where}.{field.name}")
        found[field.name] = told(held, f"{where}.{field.name}")
    return found


def _content(path: str, where: str) -> dict[str, str]:
    """Returns the SHA-256 of a file's content."""
    try:
        return {"file": files.sha256(Path(path).expanduser())}
    except OSError as error:
        raise FileNotFoundError(
            f"{where}: {path!r} cannot be read ({error}); give the path of a file, "
            f"relative to {Path.cwd()} or absolute"
        ) from error


def _captured(cls: type, where: str, within: tuple[type, ...]) -> dict[str, Any]:
    """Returns what a local class takes from the function around it: the values that its
    methods refer to, their defaults, and other values in the class's body.
    """
    if cls in within:
        return {}
    told = functools.partial(described, within=(*within, cls))
    found = {}
    for owner in cls.__mro__:
        if _is_of_no_file(owner):
            found[f"code of {owner.__qualname__}"] = _code_of(owner)
        if "<locals>" not in owner.__qualname__:
            continue  # the name of its module identifies it
        fields = getattr(owner, "__dataclass_fields__", {})
        for name, held in vars(owner).get("__written__", vars(owner)).items():
            if name in fields or name.startswith(("_abc_", "_is_")):
                continue
            at = f"{owner.__qualname__}.{name}"
            functions = [] if _is_imported(held) else _functions(held)
            if not functions and not (name.startswith("__") and name.endswith("__")):
                found[at] = told(held, f"{where}: {name}")
            for function in functions:
                for about, value in _around(function):
                    if not any(value is one for one in (*cls.__mro__, *functions)):
                        found[f"{at}: {about}"] = told(value, f"{where}: {about}")
    return found


def _is_of_no_file(cls: type) -> bool:
    """Returns whether a class was written at a prompt or in a notebook.

    A digest of files does not change when such a class is written again.
    """
    main = sys.modules["__main__"]
    return cls.__module__ == "__main__" and not hasattr(main, "__file__")


def _code_of(cls: type) -> str:
    """Returns a digest of the code of a class's functions."""
    found = hashlib.sha256()

    def add(code: types.CodeType) -> None:
        found.update(code.co_code)
        found.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                add(constant)
            elif isinstance(constant, frozenset):  # in no order
                found.update(repr(sorted(map(repr, constant))).encode())
            else:
                found.update(repr(constant).encode())

    written = vars(cls).get("__written__", vars(cls))
    for name in sorted(written):
        for function in _functions(written[name]):
            found.update(name.encode())
            add(function.__code__)
    return found.hexdigest()[:16]


def _functions(held: Any) -> list[Any]:
    """Returns the functions of a class's attribute: a method, and the functions below a
    property or below decorators.
    """
    found = []
    while held is not None:
        if isinstance(held, types.FunctionType):
            found.append(held)
        below = ("__wrapped__", "__func__", "fget", "func")
        inner = [getattr(held, name, None) for name in below]
        held = next((one for one in inner if callable(one)), None)
    return found


def _around(function: Any) -> Iterator[tuple[str, Any]]:
    """Yields the values that a function refers to in functions around it, and its
    defaults.
    """
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # nothing has this name yet
            yield name, None
    for place, value in enumerate(function.__defaults__ or ()):
        yield f"default {place} of {function.__name__}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"default {name} of {function.__name__}", value


def _import_path(value: Any, where: str) -> str:
    """Returns the import path of a function."""
    if not _is_imported(value):
        raise ValueError(
            f"{where} holds {value!r}, which has no import path to record; define it "
            "at the top of a module, or make it a part with fields for the values that "
            "it uses"
        )
    return path_of(value)


def _is_imported(value: Any) -> bool:
    """Returns whether a function's import path leads to this very function."""
    found = sys.modules.get(getattr(value, "__module__", None) or "")
    for step in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, step, None)
    return found is not None and found is value
