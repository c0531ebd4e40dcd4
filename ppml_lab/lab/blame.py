"""Which number of a setup decides what it must not: a shape or a branch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ppml_lab.lab import paths
from ppml_lab.lab.setup import Facts


def blamed(setup: Any, facts: Facts, error: TypeError) -> Exception:
    """What to raise for an error in building a setup: one that names the number which
    decides a shape or a branch, if there is one.
    """
    leaves, structure = jax.tree.flatten(setup)
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in leaves]

    def fails(place: int | None) -> bool:
        def program(value: Any) -> Any:
            numbers = [value if i == place else v for i, v in enumerate(whole)]
            algorithm = jax.tree.unflatten(structure, numbers).algorithm(facts)
            return algorithm.init(jax.random.key(0))

        try:
            jax.eval_shape(program, np.float32(1))
        except (TypeError, jax.errors.JAXTypeError):
            return True
        except Exception:
            return False
        return False

    if not fails(None):
        for place, path in enumerate(paths.numbers(setup)):
            if fails(place):
                return ValueError(
                    f"{path} is annotated Traced and decides a shape or a branch; "
                    "declare it int (or float, bool), so that it is compiled"
                )
    return error
