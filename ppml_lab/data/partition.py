"""Partitions: ways to split a data set among clients.

Every function except `hold_out` returns the client, in `range(num_clients)`, of each
example, and every client owns at least one example. The functions run on the host;
`federate` takes the result.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ppml_lab import arguments, checks
from ppml_lab.data import columns

Owners = Int[np.ndarray, " examples"]


@arguments.checked
def iid(rng: np.random.Generator, num_examples: int, num_clients: int) -> Owners:
    """Splits shuffled examples evenly; sizes differ by at most 1.

    Raises:
      ValueError: For more clients than examples.
    """
    _check_clients(num_examples, num_clients)
    return rng.permutation(np.arange(num_examples) % num_clients)


@arguments.checked
def dirichlet(
    rng: np.random.Generator, labels: Any, num_clients: int, alpha: float
) -> Owners:
    """Splits with label skew: each class is divided by its own draw from
    Dirichlet(alpha).

    With a small alpha few clients hold most of a class; a large alpha is close to IID.
    Sizes vary as well. A client left empty receives one random example of the client
    that is the largest at that moment.

    This is p_k ~ Dir(alpha) of the paper (NIID-Bench). The paper's code also stops
    giving to clients above the average size and draws again until everybody has 10
    examples; this function does neither, so that all classes are treated alike.

    Li, Diao, Chen, He. Federated Learning on Non-IID Data Silos: An Experimental Study.
    ICDE 2022.

    Args:
      rng: Source of randomness.
      labels: `[n]` class of each example.
      num_clients: Number of clients, at most `n`.
      alpha: Concentration, above 0.

    Raises:
      ValueError: For a bad alpha, labels that are missing or not one axis, or more
        clients than examples.
    """
    labels = columns.one_axis("labels", labels)
    _check_clients(len(labels), num_clients)
    checks.positive("alpha", alpha)
    if not np.isfinite(float(alpha) * num_clients):
        raise ValueError(
            f"alpha times num_clients must be a finite number, got {alpha} times "
            f"{num_clients}; use iid for equal shares"
        )
    owners = _of_nobody(len(labels))
    for _, rows in _classes(rng, labels):
        proportions = rng.dirichlet(np.full(num_clients, float(alpha)))
        owners[rows] = _allot(len(rows), proportions)
    return _fill_empty(rng, owners, num_clients)


@arguments.checked
def shards(
    rng: np.random.Generator, labels: Any, num_clients: int, shards_per_client: int
) -> Owners:
    """Splits with pathological label skew: examples are sorted by label and cut into
    shards, which clients get at random.

    Most clients see at most `shards_per_client` classes, a few one more per shard that
    straddles two classes. Shard sizes differ by at most 1.

    McMahan, Moore, Ramage, Hampson, Aguera y Arcas. Communication-Efficient Learning of
    Deep Networks from Decentralized Data. AISTATS 2017.

    Args:
      rng: Source of randomness.
      labels: `[n]` class of each example.
      num_clients: Number of clients.
      shards_per_client: Number of shards of each client (2 in the paper).

    Raises:
      ValueError: For more shards than examples, or labels that are missing or not one
        axis.
    """
    labels = columns.one_axis("labels", labels)
    _check_clients(len(labels), num_clients)
    checks.at_least("shards_per_client", shards_per_client, 1)
    num_shards = num_clients * shards_per_client
    if num_shards > len(labels):
        raise ValueError(
            f"num_clients {num_clients} times shards_per_client {shards_per_client} "
            f"needs {num_shards} examples, got {len(labels)}; lower one of the two"
        )
    shuffled = rng.permutation(len(labels))
    _, class_of = columns.numbered("labels", labels)
    by_label = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    client_of_shard = rng.permutation(num_shards) // shards_per_client
    owners = _of_nobody(len(labels))
    owners[by_label] = client_of_shard[
        np.arange(len(labels)) * num_shards // len(labels)
    ]
    return owners


@arguments.checked
def label_limited(
    rng: np.random.Generator, labels: Any, num_clients: int, labels_per_client: int
) -> Owners:
    """Splits so that every client has exactly `labels_per_client` classes, and a class
    is divided evenly among its owners.

    Client `i` gets the `i`-th class (modulo the number of classes) and others at
    random, so that every class has an owner while there are at least as many clients.

    Li, Diao, Chen, He. Federated Learning on Non-IID Data Silos: An Experimental Study.
    ICDE 2022 (its "#C = k").

    Args:
      rng: Source of randomness.
      labels: `[n]` class of each example.
      num_clients: Number of clients, at least as many as classes.
      labels_per_client: Number of classes of each client.

    Raises:
      ValueError: For more classes per client than exist, fewer clients than classes,
        a class with fewer examples than owners, or labels that are missing or not one
        axis.
    """
    labels = columns.one_axis("labels", labels)
    _check_clients(len(labels), num_clients)
    checks.at_least("labels_per_client", labels_per_client, 1)
    classes, _ = columns.numbered("labels", labels)
    if labels_per_client > len(classes):
        raise ValueError(
            f"labels_per_client {labels_per_client} exceeds the {len(classes)} classes"
        )
    if num_clients < len(classes):
        raise ValueError(
            f"num_clients {num_clients} leaves some of {len(classes)} classes without "
            "an owner; take at least as many clients as classes"
        )
    owners_of: list[list[int]] = [[] for _ in classes]
    for client in range(num_clients):
        first = client % len(classes)
        others = np.delete(np.arange(len(classes)), first)
        more = rng.choice(others, labels_per_client - 1, replace=False)
        for place in (first, *more):
            owners_of[place].append(client)
    owners = _of_nobody(len(labels))
    parts = _classes(rng, labels)
    for (label, rows), sharing in zip(parts, owners_of, strict=True):
        if len(rows) < len(sharing):
            raise ValueError(
                f"class {label} has {len(rows)} examples for {len(sharing)} clients; "
                "lower num_clients or labels_per_client"
            )
        owners[rows] = np.array(sharing)[
            np.arange(len(rows)) * len(sharing) // len(rows)
        ]
    return owners


@arguments.checked
def quantity_skew(
    rng: np.random.Generator, num_examples: int, num_clients: int, sigma: float
) -> Owners:
    """Splits with size skew alone: random examples, sizes proportional to LogNormal(0,
    sigma).

    A client left empty receives one random example of the client that is the largest at
    that moment. With sigma 0, sizes differ by at most 1.

    Args:
      rng: Source of randomness.
      num_examples: Number of examples.
      num_clients: Number of clients, at most `num_examples`.
      sigma: Standard deviation of a size's logarithm, at most 1e6: above some hundreds
        one client has all examples that the others can spare.

    Raises:
      ValueError: For a bad sigma, or more clients than examples.
    """
    _check_clients(num_examples, num_clients)
    checks.non_negative("sigma", sigma)
    if sigma > 1e6:
        raise ValueError(f"sigma must be at most 1e6, got {sigma}; take a smaller one")
    log_sizes = sigma * rng.standard_normal(num_clients)
    sizes = np.exp(log_sizes - log_sizes.max())
    owners = rng.permutation(_allot(num_examples, sizes / sizes.sum()))
    return _fill_empty(rng, owners, num_clients)


@arguments.checked
def natural(user_ids: Any) -> Owners:
    """Splits by natural users, numbered in the order of their sorted ids.

    Args:
      user_ids: `[n]`, the user of every example, of any type that sorts. Unknown users
        are an error, not one more user.

    Raises:
      ValueError: For None (the data set has no users), other than one axis, no
        examples, or ids that are missing (NaN, None, NaT), complex or cannot be sorted.
    """
    if user_ids is None:
        raise ValueError(
            "user_ids is None: this data set has no natural users; use partition.iid, "
            "dirichlet, shards, label_limited or quantity_skew"
        )
    return columns.numbered("user_ids", columns.one_axis("user_ids", user_ids))[1]


def _of_nobody(num_examples: int) -> Owners:
    """An array of owners to fill in; -1 is no client's number."""
    return np.full(num_examples, -1, dtype=np.int64)


def _classes(
    rng: np.random.Generator, labels: np.ndarray
) -> Iterator[tuple[Any, Int[np.ndarray, " rows"]]]:
    """Yields each label and its rows, shuffled; every row belongs to one label."""
    values, class_of = columns.numbered("labels", labels)
    for number, label in enumerate(values):
        yield label, rng.permutation(np.flatnonzero(class_of == number))


def _allot(
    num_examples: int, proportions: Float[np.ndarray, " clients"]
) -> Int[np.ndarray, " examples"]:
    """Client ids in ascending order, each repeated by its proportion."""
    # Rounding the cuts, not the sizes, keeps the total exact.
    cuts = np.rint(np.cumsum(proportions) * num_examples).astype(np.int64)
    cuts[-1] = num_examples
    return np.repeat(np.arange(len(proportions)), np.diff(cuts, prepend=0))


def _fill_empty(rng: np.random.Generator, owners: Owners, num_clients: int) -> Owners:
    """Gives each empty client a random example of the client that is then largest."""
    sizes = np.bincount(owners, minlength=num_clients)
    empty = np.flatnonzero(sizes == 0)
    if not empty.size:
        return owners
    shuffled = rng.permutation(len(owners))
    rows = shuffled[np.argsort(owners[shuffled], kind="stable")]
    ends = np.cumsum(sizes)
    largest = [(-size, client) for client, size in enumerate(sizes.tolist()) if size]
    heapq.heapify(largest)
    owners = owners.copy()
    for client in empty:
        negative_size, donor = largest[0]
        heapq.heapreplace(largest, (negative_size + 1, donor))
        ends[donor] -= 1
        owners[rows[ends[donor]]] = client
    return owners


@arguments.checked
def hold_out(
    rng: np.random.Generator, owners: Any, share: float, *, people: Any = None
) -> Bool[np.ndarray, " examples"]:
    """Draws rows of each client that are never trained on, to judge its own model.

    A client holds out `share` of its rows, or of its people with all their rows,
    rounded to the nearest whole number and drawn evenly, but at least one and never
    all; a client with a single one holds out none.

    Args:
      rng: Source of randomness.
      owners: `[n]`, each row's client, as the functions of this module give them.
      share: The share of rows to hold out, in (0, 1); with people, of people.
      people: `[n]`, each row's person; None if every row is another person.

    Returns:
      True for rows that are held out, for `data.federate(..., held_out=...)`.

    Raises:
      ValueError: For owners that are not integers from 0 on, a share out of range, or
        other than one person per row.
    """
    owners = columns.one_axis("owners", owners)
    if owners.dtype.kind not in "iu" or owners.min() < 0:
        raise ValueError(f"owners must be integers from 0 on, got {owners.dtype}")
    checks.probability("share", share, allow_one=False)
    if people is None:
        return _held_out(rng, owners, share)
    _, which = columns.numbered("people", columns.one_axis("people", people))
    checks.entries("people", which, len(owners), "owners' rows")
    units, unit = np.unique(np.stack([owners, which]), axis=1, return_inverse=True)
    return _held_out(rng, units[0], share)[unit.reshape(-1)]


def _held_out(rng: np.random.Generator, owners: np.ndarray, share: float) -> np.ndarray:
    """Draws a share of each client's units, `[units]` bool."""
    sizes = np.bincount(owners)
    wanted = np.maximum(np.rint(share * sizes).astype(np.int64), 1)
    counts = np.minimum(wanted, np.maximum(sizes - 1, 0))
    shuffled = rng.permutation(len(owners))
    order = shuffled[np.argsort(owners[shuffled], kind="stable")]
    begins = np.cumsum(sizes) - sizes
    place = np.arange(len(owners)) - np.repeat(begins, sizes)
    held = np.zeros(len(owners), bool)
    held[order] = place < np.repeat(counts, sizes)
    return held


def _check_clients(num_examples: int, num_clients: int) -> None:
    checks.at_least("num_examples", num_examples, 1)
    checks.at_least("num_clients", num_clients, 1)
    if num_clients > num_examples:
        raise ValueError(
            f"num_clients {num_clients} exceeds the number of examples {num_examples}; "
            "every client needs at least one"
        )
