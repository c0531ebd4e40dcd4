"""A federated data set on device: rows grouped by client."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int, PyTree

from ppml_lab import arguments, base, checks, trees
from ppml_lab.data import columns, partition
from ppml_lab.data.storage import client_view, made

_ALIGNMENT = 64
_MOST_NAMED = 10


@arguments.checked
def federate(
    examples: PyTree[ArrayLike],
    user_ids: Any,
    *,
    num_clients: int | None = None,
    users: Any = None,
    held_out: Any = None,
    sharding: jax.sharding.Sharding | None = None,
) -> base.Clients:
    """Groups examples by their owner and moves them to the device.

    Client `i` is the `i`-th user in sorted order. Its rows keep their order; held-out
    rows come after the others. Leaves become jax arrays, so float64 becomes float32
    unless x64 is enabled.

    Args:
      examples: Any pytree of arrays `[n, ...]` of numbers. A NaN stays NaN.
      user_ids: `[n]`, the owner of each row: integers, strings, anything that sorts.
      num_clients: If given, ids must be integers and client `i` is user `i`.
      users: `[clients]`, all different. If given, client `i` is `users[i]`, even if it
        owns nothing, so that rows of a test set line up with the clients of train:
        `federate(test, test_users, users=np.unique(train_users))`. Clients without rows
        are there to be evaluated, not to be trained.
      held_out: `[n]` truth values, True for rows that are never trained on, such as
        `partition.hold_out` gives them; no rows if None.
      sharding: Where the arrays lie; the default device if None. CPU devices that hold
        whole arrays share one copy.

    Raises:
      ValueError: For leaves or ids of different length, no examples, leaves of texts,
        dates or objects, missing ids, a client in `range(num_clients)` that owns
        nothing, ids that are not among `users` (the error names them: users that only
        the test set has are no clients), repeated users, numbers too large for the
        device's dtype, or `held_out` that is not one truth value per example.
    """
    num_examples, count = columns.num_examples("examples", examples), 0
    if users is not None:
        if num_clients is not None:
            raise ValueError(
                f"num_clients {num_clients} and users are both given; users says how "
                "many clients there are, so drop num_clients"
            )
        owners, count = _places(user_ids, users)
    elif num_clients is None:
        owners = partition.natural(user_ids)
    else:
        owners = columns.one_axis("user_ids", user_ids)
        _check_owners(owners, num_clients)
    if len(owners) != num_examples:
        raise ValueError(
            f"user_ids names the owner of {len(owners)} examples, but there are "
            f"{num_examples}; give one id per example"
        )
    held = _held(held_out, num_examples)
    order = np.lexsort((held, owners))
    sizes = np.bincount(owners, minlength=count)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    grouped = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _to_device(
            _name(path), _rows(np.asarray(leaf), order), sharding
        ),
        examples,
    )
    offsets = trees.place(np.int32(offsets), sharding)
    if held_out is None:
        return base.Clients(grouped, offsets)
    counts = np.bincount(owners, weights=held, minlength=count)
    return base.Clients(grouped, offsets, trees.place(np.int32(counts), sharding))


def _places(user_ids: Any, users: Any) -> tuple[np.ndarray, int]:
    """Each row's place among the users, and the number of users."""
    ids = columns.plain(columns.one_axis("user_ids", user_ids))
    wanted = columns.plain(columns.one_axis("users", users))
    # numpy would compare 1 and "1" as texts.
    if columns.family(ids) != columns.family(wanted):
        raise ValueError(
            f"users are {wanted.dtype} and user_ids {ids.dtype}; give both as numbers "
            "or both as strings"
        )
    if ids.dtype.kind != wanted.dtype.kind:
        # Beyond 2^53 numpy would compare int64 and uint64 as floats.
        ids, wanted = ids.astype(object), wanted.astype(object)
    known, place = columns.numbered("users", wanted)
    first = np.argsort(place)
    if len(known) < len(wanted):
        twice = known[np.argmax(np.bincount(place))]
        raise ValueError(
            f"users must be distinct, got {twice} twice; numpy.unique(train_users) has "
            "each user once, in the order of federate's clients"
        )
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    is_stranger = known[places] != ids
    if is_stranger.any():
        strangers = np.unique(ids[is_stranger]).tolist()
        shown = ", ".join(map(repr, strangers[:_MOST_NAMED]))
        shown += ", ..." if len(strangers) > _MOST_NAMED else ""
        raise ValueError(
            f"user_ids has {len(strangers)} users ({is_stranger.sum()} of {len(ids)} "
            f"rows) that are not in users: {shown}; keep the rows where "
            "numpy.isin(user_ids, users), or add these users to users"
        )
    return first[places], len(wanted)


def _held(held_out: Any, num_examples: int) -> np.ndarray:
    """True for rows that are held out, `[n]` bool."""
    if held_out is None:
        return np.zeros(num_examples, bool)
    held = np.asarray(held_out)
    if held.dtype != np.bool_ or held.shape != (num_examples,):
        raise ValueError(
            f"held_out must be one truth value for each of {num_examples} examples, got"
            f" {held.dtype}{list(held.shape)}; data.partition.hold_out draws them"
        )
    return held


@arguments.checked
def num_clients(clients: base.Clients) -> int:
    """The number of clients."""
    return clients.offsets.shape[0] - 1


@arguments.checked
def client_sizes(clients: base.Clients) -> Int[np.ndarray, " clients"]:
    """The number of examples that each client owns; on the host."""
    return np.diff(np.asarray(clients.offsets))


@arguments.checked
def view(clients: base.Clients, i: Any) -> base.ClientView:
    """The view of client `i`; works under jit and vmap, too.

    Raises:
      ValueError: If `i` is known and not in `range(num_clients(clients))`.
    """
    checks.at_least("i", i, 0)
    if not checks.is_traced(i) and i >= num_clients(clients):
        raise ValueError(
            f"client i = {i} does not exist; the number of clients is "
            f"{num_clients(clients)}"
        )
    return client_view(clients, i, made(clients, i))


def _check_owners(owners: np.ndarray, num_clients: int) -> None:
    checks.at_least("num_clients", num_clients, 1)
    if owners.ndim != 1 or owners.dtype.kind not in "iu":
        raise ValueError(
            "with num_clients, user_ids must be one integer per example, got "
            f"{owners.dtype} {owners.shape}; drop num_clients for other ids"
        )
    strangers = owners[(owners < 0) | (owners >= num_clients)]
    if strangers.size:
        raise ValueError(
            f"user_ids must lie in [0, num_clients = {num_clients}), got {strangers[0]}"
        )
    empty = np.flatnonzero(np.bincount(owners, minlength=num_clients) == 0)
    if empty.size:
        shown = ", ".join(map(str, empty[:10])) + (", ..." if empty.size > 10 else "")
        raise ValueError(
            f"user_ids: {empty.size} of {num_clients} clients own no example: {shown}; "
            "lower num_clients, or drop num_clients to number only the users that occur"
        )


def _rows(leaf: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rows in this order, at an address that jax need not copy on CPU."""
    memory = np.empty(leaf.nbytes + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    rows = memory[begin : begin + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
    return np.take(leaf, order, axis=0, out=rows)


def _to_device(
    name: str, rows: np.ndarray, sharding: jax.sharding.Sharding | None
) -> jax.Array:
    # jax narrows to 32 bits silently.
    dtype = jax.dtypes.canonicalize_dtype(rows.dtype)
    if rows.dtype != dtype and not _fits(rows, dtype):
        raise ValueError(
            f"{name} has {rows.dtype} values that do not fit {dtype}; rescale them or "
            "enable jax_enable_x64"
        )
    return trees.place(rows, sharding)


def _fits(rows: np.ndarray, dtype: np.dtype) -> bool:
    """Returns whether integers stay the same, and no float becomes infinite."""
    with np.errstate(over="ignore"):
        narrowed = rows.astype(dtype)
    if rows.dtype.kind in "iu":
        return np.array_equal(rows, narrowed)
    return np.array_equal(np.isfinite(rows), np.isfinite(narrowed))


def _name(path: Any) -> str:
    return f"examples{jax.tree_util.keystr(path)}"
