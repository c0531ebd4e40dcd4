"""One-line descriptions of arrays, for prompts and notebooks."""

from __future__ import annotations

import re
from typing import Any

import jax


def named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths as names, such as "y.time"."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def rows(tree: Any) -> str:
    """The shape and type of one row of each leaf `[n, ...]`: "x [8,8,1] f32, y i32"."""
    found = []
    for name, leaf in named(tree):
        shape = ",".join(map(str, getattr(leaf, "shape", ())[1:]))
        dtype = str(getattr(leaf, "dtype", "?"))
        dtype = re.sub(r"[a-z]+(?=\d)", lambda letters: letters[0][0], dtype)
        found.append(" ".join(filter(None, (name, shape and f"[{shape}]", dtype))))
    return ", ".join(found)


def clients(examples: Any, offsets: Any, held_out: Any = None) -> str:
    """A federated data set: "Clients(2 clients, 9 examples: x [8] f32, y i32)"."""
    sizes = {getattr(leaf, "shape", ("?",))[0] for leaf in jax.tree.leaves(examples)}
    total = sizes.pop() if len(sizes) == 1 else "?"
    number = offsets.shape[0] - 1
    about = f"{number} client{'' if number == 1 else 's'}, {total} examples"
    more = "" if held_out is None else ", some held out"
    return f"Clients({about}: {rows(examples)}{more})"
