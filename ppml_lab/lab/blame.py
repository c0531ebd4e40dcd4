"""Which number of a setup decides what it must not: a shape or a branch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from ppml_lab.lab import paths
from ppml_lab.lab.loading import facts_of, load_data


@contextmanager
def blaming(setup: Any) -> Iterator[None]:
    """Turns an error in building or tracing a setup into one that names the number
    which decides a shape or a branch, if there is one.
    """
    try:
        yield
    except TypeError as error:
        path = _deciding(setup)
        if path is None:
            raise
        raise ValueError(
            f"{path} is annotated Traced and decides a shape or a branch; declare it "
            "int (or float, bool), so that it is compiled"
        ) from error


def _deciding(setup: Any) -> str | None:
    """The path of a number with which tracing fails, and without which it does not."""
    facts, clients = facts_of(setup), load_data(setup).clients
    leaves, structure = jax.tree.flatten(setup)
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in leaves]

    def fails(place: int | None, others: list[Any]) -> bool:
        def program(value: Any) -> Any:
            numbers = [value if i == place else v for i, v in enumerate(others)]
            algorithm = jax.tree.unflatten(structure, numbers).algorithm(facts)
            key = jax.random.key(0)
            return algorithm.round(key, algorithm.init(key), clients)

        try:
            jax.eval_shape(program, np.float32(1))
        except TypeError:
            return True
        except Exception:
            return False
        return False

    for others in (leaves, whole):
        if not fails(None, others):
            for place, path in enumerate(paths.numbers(setup)):
                if fails(place, others):
                    return path
    return None
