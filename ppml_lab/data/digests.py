"""Digests of federated data: short texts that tell data apart."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree

from ppml_lab import arguments
from ppml_lab.data import columns

_BYTES = 16


class Digests(NamedTuple):
    """Texts that differ where data differ in a single value.

    Attributes:
      stored: Digest of the examples in their order, with their owners.
      examples: Digest of the examples, whatever their order and owners.
      clients: Digest of the clients with their examples, whatever their order.
    """

    stored: str
    examples: str
    clients: str


@arguments.checked
def digests(examples: PyTree[ArrayLike], owners: Any) -> Digests:
    """The digests of examples before `federate` groups them; host side.

    They do not depend on the layout of the data over devices or hosts.

    Args:
      examples: Any pytree of arrays `[n, ...]`.
      owners: `[n]`, each row's client, from 0 on.

    Raises:
      ValueError: For leaves or owners of different length, or owners that are not
        integers.
    """
    count, owners = _checked(examples, owners)
    leaves = jax.tree_util.tree_leaves_with_path(examples)
    kinds = [
        f"{jax.tree_util.keystr(path)} {leaf.dtype.str} {leaf.shape[1:]}"
        for path, leaf in ((path, np.asarray(leaf)) for path, leaf in leaves)
    ]
    rows = _row_digests(examples, count)
    order, ends = _grouped(owners)
    clients = [_digest([_sorted(own)]) for own in np.split(rows[order], ends[:-1])]
    header = "\n".join([*kinds, str(count)]).encode()
    return Digests(
        stored=_text([header, rows[order].tobytes(), ends.astype("<i8").tobytes()]),
        examples=_text([header, _sorted(rows)]),
        clients=_text([header, *sorted(clients)]),
    )


@arguments.checked
def by_client(examples: PyTree[ArrayLike], owners: Any) -> tuple[frozenset[bytes], ...]:
    """The digests of each client's rows; equal rows have equal digests everywhere.

    Args and errors are those of `digests`.
    """
    count, owners = _checked(examples, owners)
    rows, (order, ends) = _row_digests(examples, count), _grouped(owners)
    return tuple(
        frozenset(row.tobytes() for row in own)
        for own in np.split(rows[order], ends[:-1])
    )


def _checked(examples: PyTree[ArrayLike], owners: Any) -> tuple[int, np.ndarray]:
    """The number of examples, and their owners as an array."""
    count = columns.num_examples("examples", examples)
    owners = columns.one_axis("owners", owners)
    if owners.dtype.kind not in "iu" or owners.min() < 0 or len(owners) != count:
        raise ValueError(
            f"owners must hold one integer of at least 0 for each of {count} examples, "
            f"got {owners.dtype}{list(owners.shape)}"
        )
    return count, owners


def _grouped(owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order that groups rows by client, and the end of each client's group."""
    return np.argsort(owners, kind="stable"), np.cumsum(np.bincount(owners))


def _row_digests(examples: PyTree[ArrayLike], count: int) -> np.ndarray:
    """One digest for each row of all arrays together, as opaque values `[n]`."""
    arrays = map(np.ascontiguousarray, jax.tree.leaves(examples))
    views = [
        (array.reshape(-1).view(np.uint8).data, array.nbytes // count)
        for array in arrays
        if array.nbytes
    ]
    found = bytearray()
    for row in range(count):
        one = hashlib.blake2b(digest_size=_BYTES)
        for view, width in views:
            one.update(view[row * width : (row + 1) * width])
        found += one.digest()
    return np.frombuffer(bytes(found), f"V{_BYTES}")


def _sorted(rows: np.ndarray) -> bytes:
    return b"".join(sorted(row.tobytes() for row in rows))


def _digest(parts: list[bytes]) -> bytes:
    found = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        # The length goes in, so that no two lists of parts have the same text.
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()


def _text(parts: list[bytes]) -> str:
    return _digest(parts).hex()
