"""Facts about rows and clients on the host."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ppml_lab import base, data, trees
from ppml_lab.data import alike, persons
from ppml_lab.lab.setup import Facts


def stored_rows(clients: base.Clients) -> Any:
    """Returns rows with the shapes and types of the stored ones, leaves `[any,
    ...]`.
    """
    if isinstance(clients.examples, data.storage.Generated):
        return jax.eval_shape(clients.examples.make, jax.ShapeDtypeStruct((), np.int32))
    if isinstance(clients.examples, data.storage.ByShard):
        return clients.examples.rows
    return clients.examples


def _example(examples: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            np.shape(leaf)[1:],
            jax.dtypes.canonicalize_dtype(alike.type_of(leaf)),
        ),
        examples,
    )


def of_rows(
    train: Any,
    owners: np.ndarray,
    num_clients: int,
    held_out: np.ndarray | None,
    judged_by: Any,
    num_classes: int | None,
) -> Facts:
    """Returns the facts about rows on the host; `held_out` marks rows that clients hold
    out.
    """
    facts = Facts(
        num_clients=num_clients,
        num_examples=len(owners),
        max_client_size=int(np.bincount(owners).max()),
        example=_example(train),
        num_classes=num_classes,
        judged_by=trees.digest(judged_by),
    )
    if held_out is not None:
        aside, train = (chosen(train, which) for which in (held_out, ~held_out))
        sizes = np.bincount(owners[~held_out], minlength=num_clients)
        facts = facts._replace(
            num_examples=int(sizes.sum()),
            max_client_size=int(sizes.max()),
            judged_by=trees.digest((*judged_by, aside)),
            num_held_out=int(held_out.sum()),
        )
        owners = owners[~held_out]
    return facts._replace(
        digests=data.digests(train, owners),
        people=_people(train, owners, num_clients),
    )


def _people(train: Any, owners: np.ndarray, num_clients: int) -> data.People | None:
    """Returns the people of clients' rows; None where the rows do not name them
    rightly.

    Only trainers that ask for people need them.
    """
    sizes = np.bincount(owners, minlength=num_clients)
    offsets: Any = np.concatenate([[0], np.cumsum(sizes)])
    names: Any = {}
    if persons.has_names(train):
        # Only this leaf is read.
        order = np.argsort(owners, kind="stable")
        names = {persons.LEAF: np.asarray(train[persons.LEAF])[order]}
    try:
        return data.people(base.Clients(names, offsets))
    except ValueError:
        return None


def chosen(tree: Any, which: np.ndarray) -> Any:
    """Returns the rows at these places, or of a mask, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[which], tree)


def of_clients(clients: base.Clients, test: Any, num_classes: int | None) -> Facts:
    """Returns the facts about clients that are already dealt."""
    sizes = data.client_sizes(clients)
    if not isinstance(clients.examples, data.storage.ByShard | data.storage.Generated):
        host, owners, held_out = on_host(clients)
        return of_rows(host, owners, len(sizes), held_out, (test, None), num_classes)
    held = _sizes_held_out(clients)
    return Facts(
        num_clients=len(sizes),
        num_examples=int((sizes - held).sum()),
        max_client_size=int((sizes - held).max()),
        example=_example(stored_rows(clients)),
        num_classes=num_classes,
        judged_by=trees.digest((test, None)),
        num_held_out=int(held.sum()),
    )


def on_host(clients: base.Clients) -> tuple[Any, np.ndarray, np.ndarray | None]:
    """Returns stored clients' rows on the host, the owner of each row, and a mask of
    rows that are held out (None for no such rows).
    """
    sizes, held = data.client_sizes(clients), _sizes_held_out(clients)
    host = jax.tree.map(np.asarray, clients.examples)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    # A client holds out its last rows.
    left = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(owners))
    return host, owners, left <= held[owners] if held.any() else None


def _sizes_held_out(clients: base.Clients) -> np.ndarray:
    if clients.held_out is None:
        return np.zeros(clients.offsets.shape[0] - 1, int)
    return np.asarray(clients.held_out)
