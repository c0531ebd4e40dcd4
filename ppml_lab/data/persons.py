"""People in federated data, where a person may have several rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ppml_lab import arguments, base
from ppml_lab.data import storage
from ppml_lab.data.clients import client_sizes

LEAF = "person"
"""The optional leaf of examples that says which person each row belongs to."""


class People(NamedTuple):
    """Counts of the people in federated data.

    Attributes:
      count: Number of people of all clients together.
      num_clients: Number of clients.
      most_people: Largest number of people of one client.
      most_rows: Largest number of rows that one client trains on.
      most_each: Largest number of rows of one person.
      shared: A person whose rows lie at two clients, and these two; None for nobody.
    """

    count: int
    num_clients: int
    most_people: int
    most_rows: int
    most_each: int
    shared: tuple[int, int, int] | None = None


@arguments.checked
def people(clients: base.Clients) -> People:
    """Counts the people whose rows clients train on; on the host.

    If examples are a dict with a leaf "person" (`[n]` integers), it gives each row's
    person; otherwise every row is another person. Held-out rows do not count.

    Raises:
      ValueError: If that leaf does not hold one integer per row, or examples with it
        are sharded or generated, so that people cannot be counted.
    """
    sizes = client_sizes(clients)
    if clients.held_out is not None:
        sizes = sizes - np.asarray(clients.held_out)
    each = max(1, int(sizes.max()))
    named = _named(clients.examples)
    if named is None:
        return People(int(sizes.sum()), len(sizes), each, each, 1)
    begins = np.asarray(clients.offsets)[:-1]
    owners = np.repeat(np.arange(len(sizes)), sizes)
    ends = np.cumsum(sizes)
    rows = np.arange(len(owners)) - np.repeat(ends - sizes, sizes) + begins[owners]
    found, which = np.unique(named[rows], return_inverse=True)
    first = np.full(len(found), len(sizes))
    np.minimum.at(first, which, owners)
    last = np.zeros(len(found), int)
    np.maximum.at(last, which, owners)
    apart = np.flatnonzero(first != last)
    shared = None
    if apart.size:
        one = apart[0]
        shared = int(found[one]), int(first[one]), int(last[one])
    by_client = np.bincount(first, minlength=len(sizes))
    most_each = np.bincount(which).max(initial=1)
    most_people = max(1, int(by_client.max()))
    return People(len(found), len(sizes), most_people, each, int(most_each), shared)


def has_names(examples: Any) -> bool:
    """Returns whether examples have a leaf with each row's person."""
    return isinstance(examples, Mapping) and LEAF in examples


def _named(examples: Any) -> np.ndarray | None:
    """The person of each stored row, `[n]`; None where examples do not say."""
    if isinstance(examples, storage.ByShard | storage.Generated):
        like = examples
        if isinstance(like, storage.Generated):
            like = jax.eval_shape(like.make, jax.ShapeDtypeStruct((), np.int32))
        if has_names(getattr(like, "rows", like)):
            raise ValueError(
                f"clients.examples have a leaf '{LEAF}' and are sharded or generated; "
                "count people before sharding the clients"
            )
        return None
    if not has_names(examples):
        return None
    named = np.asarray(examples[LEAF])
    if named.ndim != 1 or named.dtype.kind not in "iu":
        raise ValueError(
            f"clients.examples['{LEAF}'] must name the person of each row as an "
            f"integer, [n], got {named.dtype}{list(named.shape)}"
        )
    return named
