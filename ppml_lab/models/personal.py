"""Personal models: each client keeps some leaves for itself.

Arivazhagan, Aggarwal, Singh and Choudhary, "Federated Learning with Personalization
Layers", 2019 (FedPer: the last layers); Li, Jiang, Zhang, Kamp and Dou, "FedBN:
Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import jax
from jaxtyping import PyTree

from ppml_lab import arguments, base


@arguments.checked
def personal(task: base.Task, kept: Sequence[str]) -> base.Task:
    """Changes a task so that each client keeps the named leaves for itself.

    Clients train kept leaves with the rest, and nobody clips, noises, sends or sums
    them: a client predicts with what it was sent and what it keeps
    (`ClientTrainer.model`).

    **Guarantee:** what a mechanism promises a client, it promises against all others,
    who see only the shared leaves (joint differential privacy: Kearns, Pai, Roth and
    Ullman, ITCS 2014). Nothing is promised against those who see a client's own leaves,
    or predictions made with them.

    Args:
      task: What is learnt; leaves that it keeps stay kept.
      kept: Names of layers or leaves as in their paths: "Dense_1" is a whole layer,
        "Dense_1/bias" its bias, "BatchNorm_*" every layer whose name matches.

    Raises:
    ValueError: For no names, a name that no leaf has (the nearest is suggested), the
      name of a leaf that the task calls constant, or names that leave nothing to
      share.
    """
    if not kept:
        raise ValueError("kept is empty; name a layer, such as ('Dense_1',)")
    model = jax.eval_shape(task.init, jax.random.key(0))
    roles = _roles(task, model)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(roles)]
    before, structure = jax.tree.flatten(roles)
    after = list(before)
    for name in kept:
        found = [place for place, path in enumerate(paths) if _has(path, name)]
        if not found:
            raise ValueError(f"kept: no leaf is called '{name}'{_near(name, paths)}")
        constant = [place for place in found if before[place] == "constant"]
        if constant:
            where = "/".join(_steps(paths[constant[0]]))
            raise ValueError(
                f"kept: '{name}' names {where}, which nobody trains, as its role in "
                "the task is 'constant'; leave it out"
            )
        for place in found:
            after[place] = "kept"
    if "trainable" not in after:
        raise ValueError(
            f"kept {tuple(kept)} leaves nothing to share; name fewer layers of "
            f"{', '.join(_names(paths))}"
        )
    chosen = jax.tree.unflatten(structure, after)

    def roles_of(params: PyTree) -> PyTree:
        del params
        return chosen

    return task._replace(roles=roles_of)


def _roles(task: base.Task, model: PyTree) -> PyTree:
    if task.roles is None:
        return jax.tree.map(lambda leaf: "trainable", model)
    return task.roles(model)


def _steps(path: Sequence[object]) -> list[str]:
    text = jax.tree_util.keystr(tuple(path), simple=True, separator="/")
    return text.split("/")


def _has(path: Sequence[object], name: str) -> bool:
    """Returns whether a name is a step of a path, or several steps in a row."""
    steps, wanted = _steps(path), name.split("/")
    return any(
        all(map(fnmatchcase, steps[start : start + len(wanted)], wanted))
        for start in range(len(steps) - len(wanted) + 1)
    )


def _names(paths: Sequence[Sequence[object]]) -> list[str]:
    """The steps of all paths, once each, without the collection "params"."""
    found = dict.fromkeys(step for path in paths for step in _steps(path))
    return [name for name in found if name not in ("", "params")]


def _near(name: str, paths: Sequence[Sequence[object]]) -> str:
    names = _names(paths)
    near = difflib.get_close_matches(name, names, n=1)
    if not names:
        return "; the model has no names"
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"{hint} There are: {', '.join(names)}"
