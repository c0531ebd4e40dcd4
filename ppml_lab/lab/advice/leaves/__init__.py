"""The leaves of the advice, a file for each: `LEAF`, found by listing this package."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from ppml_lab.lab.advice.leaf import Leaf


@functools.cache
def find() -> dict[str, Leaf]:
    """Returns the leaves by the names of their files."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").LEAF for name in names}
