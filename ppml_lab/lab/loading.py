"""The data of a setup: loaded, checked, held out, dealt to clients, put on devices."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ppml_lab import arguments, base, checks, data, federated, trees
from ppml_lab.data import alike, columns, overlap, persons
from ppml_lab.data.digests import by_client
from ppml_lab.lab import about
from ppml_lab.lab.setup import Facts, check_setup, lab_mesh
from ppml_lab.lab.tree.fields import is_part
from ppml_lab.lab.tree.identity import digest

CURE_OF_CHANCE = (
    "every call has to return the same rows; if rows are drawn at random, make the "
    "seed a field of the data part"
)


class LabData(NamedTuple):
    """Federated train data, the rows beside them, and the facts about them."""

    clients: base.Clients
    """The clients with the train rows."""
    test: PyTree
    """Test rows, which choose nothing."""
    validation: PyTree | None
    """Rows that stopping and choosing look at; None if there are none."""
    facts: Facts
    """Facts about `clients`."""


@arguments.checked
def load_data(setup: Any) -> LabData:
    """Loads the data of a setup onto the devices of its sweep.

    Raises:
      ValueError: For data that do not fit together, or cannot be dealt to clients.
      FileNotFoundError: If files are missing; says where to put them.
    """
    check_setup(setup)
    return _placed(_Source(setup), setup.layout.num_devices, setup.layout.shard_data)


def facts_of(setup: Any) -> Facts:
    """Returns the facts about a setup's data, cached for many data sets.

    Raises as `load_data` does.
    """
    if not is_part(setup) or not hasattr(setup, "data"):
        check_setup(setup)
    return _facts(_Source(setup))


class _Source:
    """The source of data; sources are equal if data and dealing are the same."""

    def __init__(self, setup: Any) -> None:
        """Takes the fields of a setup that decide the data; the layout is not one."""
        self.data = setup.data
        self.partition = getattr(setup, "partition", None)
        self.validation = setup.schedule.validation
        self.held_out = getattr(setup, "held_out", 0.0)
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be in [0, 1), got {self.held_out}")
        self.name = digest(self.data, self.partition, self.validation, self.held_out)

    def __eq__(self, other: object) -> bool:
        """Compares names."""
        return isinstance(other, _Source) and self.name == other.name

    def __hash__(self) -> int:
        """Hashes the name."""
        return hash(self.name)


class _Dealt(NamedTuple):
    """Data on the host, or clients that are already dealt."""

    train: Any
    owners: np.ndarray | None
    held_out: np.ndarray | None
    test: Any
    validation: Any
    facts: Facts


@functools.lru_cache(maxsize=256)
def _facts(source: _Source) -> Facts:
    return _dealt(source).facts


class Members(NamedTuple):
    """Digests of the rows that a run uses, by owner; see `data.digests`."""

    clients: overlap.Units
    """The train rows of each client."""
    held_out: overlap.Units
    """The validation rows."""

    @property
    def rows(self) -> overlap.Units:
        """The train rows as units of one row each."""
        return [frozenset([row]) for row in frozenset().union(*self.clients)]


def members(setup: Any) -> Members:
    """Returns the members of a setup's data; cached for a few data sets, as they are
    large.
    """
    return _members(_Source(setup))


class Common(NamedTuple):
    """The uses that one run makes of the train rows of another."""

    trained: bool
    """True if the run trains on some of these rows."""
    held_out: bool
    """True if the run holds some of these rows out."""


def in_common(setup: Any, other: Any) -> Common:
    """Returns how `other` uses the train rows of `setup`."""
    return _in_common(_Source(setup), _Source(other))


@functools.lru_cache(maxsize=1024)
def _in_common(source: _Source, other: _Source) -> Common:
    here, there = _facts(source).digests, _facts(other).digests
    if here is None or there is None:
        # Rows that are generated in training have no digest.
        return Common(trained=source.data == other.data, held_out=False)
    if here.examples == there.examples:
        # Held-out rows are other rows.
        return Common(trained=True, held_out=False)
    own, its = _members(source), _members(other)
    return Common(
        trained=overlap.meet(own.clients, its.clients),
        held_out=overlap.meet(own.clients, its.held_out),
    )


@functools.lru_cache(maxsize=8)
def _members(source: _Source) -> Members:
    train, owners, aside, _, validation, _ = _dealt_as_known(source)
    if isinstance(train, base.Clients):
        train, owners, aside = about.on_host(train)
    assert owners is not None
    held_out: overlap.Units = ()
    if validation is not None:
        count = columns.num_examples("validation", validation)
        held_out = by_client(validation, np.zeros(count, int))
    if aside is not None:
        # Rows that a client holds out are judged and not trained.
        held_out = (*held_out, *by_client(about.chosen(train, aside), owners[aside]))
        train, owners = about.chosen(train, ~aside), owners[~aside]
    return Members(by_client(train, owners), held_out)


def _dealt_as_known(source: _Source) -> _Dealt:
    """Returns the data; raises ValueError unless the facts are about the same data."""
    facts, dealt = _facts(source), _dealt(source)
    if dealt.facts != facts:
        name = type(source.data).__name__
        raise ValueError(
            f"{name}.load() gave other rows than the last time: {CURE_OF_CHANCE}"
        )
    return dealt


@functools.lru_cache(maxsize=1)
def _dealt(source: _Source) -> _Dealt:
    where = type(source.data).__name__
    train, users, test = _loaded(source.data)
    num_classes = getattr(source.data, "num_classes", None)
    if num_classes is not None:
        checks.at_least(f"{where}.num_classes", num_classes, 2)
        alike.check_labels(f"{where}: test", test, num_classes)
    if isinstance(train, base.Clients):
        for name in ("validation", "held_out"):
            if share := getattr(source, name):
                raise ValueError(
                    f"{name} {share} cannot hold out rows of {where}, whose clients "
                    "are already dealt; hold rows out when dealing the clients"
                )
        alike.check_alike(where, about.stored_rows(train), test)
        if num_classes is not None:
            alike.check_labels(f"{where}: train", train.examples, num_classes)
        facts = about.of_clients(train, test, num_classes)
        return _Dealt(train, None, None, test, None, facts)
    count = columns.num_examples(f"{where}: train", train)
    columns.num_examples(f"{where}: test", test)
    alike.check_alike(where, train, test)
    if num_classes is not None:
        alike.check_labels(f"{where}: train", train, num_classes)
    if users is not None:
        users = columns.one_axis(f"{where}: users", users)
        if len(users) != count:
            raise ValueError(
                f"{where}: users has {len(users)} ids, but train has {count} rows; "
                "give one id per row"
            )
    train, users, validation = _hold_out(train, users, source.validation)
    owners = _owners(source, train, users)
    held_out = None
    if source.held_out:
        rng = np.random.default_rng(0)
        held_out = data.partition.hold_out(
            rng, owners, source.held_out, people=_people(train)
        )
    # Facts do not depend on the devices that hold the data.
    facts = about.of_rows(
        train, owners, int(owners.max()) + 1, held_out, (test, validation), num_classes
    )
    return _Dealt(train, owners, held_out, test, validation, facts)


def _loaded(part: Any) -> tuple[Any, Any, Any]:
    where = type(part).__name__
    if not callable(getattr(part, "load", None)):
        raise ValueError(
            f"data must be a part with load() -> (train, users, test), got {where}"
        )
    found = part.load()
    if not isinstance(found, tuple) or len(found) != 3:
        raise ValueError(
            f"{where}.load must return (train, users, test), got "
            f"{type(found).__name__}"
            f"{f' of {len(found)}' if isinstance(found, tuple) else ''}; users may be "
            "None"
        )
    return found


def _hold_out(train: Any, users: Any, share: float) -> tuple[Any, Any, Any]:
    """Returns train rows and users without validation rows, and the validation rows.

    Whole users are held out where there are users, else whole people where rows name
    their person.
    """
    if not share:
        return train, users, None
    count = columns.num_examples("train", train)
    rng = np.random.default_rng(0)
    people = _people(train)
    together = people if users is None else users
    if together is None:
        held = np.zeros(count, bool)
        held[rng.permutation(count)[: round(share * count)]] = True
    else:
        names, which = np.unique(together, return_inverse=True)
        sizes = np.bincount(which)
        order = rng.permutation(len(names))
        ends = np.cumsum(sizes[order])
        taken = order[: int(np.searchsorted(ends, share * count, side="right"))]
        held = np.isin(which, taken)
    if not held.any() or held.all():
        raise ValueError(
            f"validation {share} holds out {int(held.sum())} of {count} rows; choose a "
            "share that leaves rows to train and to validate"
        )
    if people is not None:
        both = np.intersect1d(people[held], people[~held])
        if both.size:
            raise ValueError(
                f"validation {share} holds out whole users, but person {both[0]} has "
                f"rows of a user that is held out and of another ({both.size} such "
                "people); validation rows must be of people who are not trained on: "
                "leave out users, or validation"
            )
    users = None if users is None else users[~held]
    return about.chosen(train, ~held), users, about.chosen(train, held)


def _people(train: Any) -> np.ndarray | None:
    """Returns each row's person; None where rows do not name one."""
    return np.asarray(train[persons.LEAF]) if persons.has_names(train) else None


def _owners(source: _Source, train: Any, users: Any) -> np.ndarray:
    """Returns each row's client, from 0; every client has rows."""
    if source.partition is None:
        if users is None:
            return np.zeros(columns.num_examples("train", train), np.int64)
        return data.partition.natural(users)
    where = type(source.partition).__name__
    if not callable(getattr(source.partition, "deal", None)):
        raise ValueError(
            f"partition must be a part with deal(train, users) -> owners, got {where}"
        )
    owners = columns.one_axis(f"{where}: owners", source.partition.deal(train, users))
    count = columns.num_examples("train", train)
    is_whole = owners.dtype.kind in "iu" and len(owners) == count
    if (
        not is_whole
        or np.any(np.bincount(np.maximum(owners, 0)) == 0)
        or (owners.min() < 0)
    ):
        raise ValueError(
            f"{where}.deal must give one client for each of {count} rows, numbered "
            f"from 0 without gaps, got {owners.dtype}{list(owners.shape)}"
        )
    return owners


@functools.lru_cache(maxsize=2)
def _placed(source: _Source, num_devices: int | None, shard_data: bool) -> LabData:
    dealt = _dealt_as_known(source)
    mesh = lab_mesh(num_devices)
    everywhere = federated.on_every_device(mesh)
    if isinstance(dealt.train, base.Clients):
        # The loader chose the devices, but for leaves that are still on the host.
        clients = jax.tree.map(
            lambda leaf: (
                trees.place(leaf, everywhere) if isinstance(leaf, np.ndarray) else leaf
            ),
            dealt.train,
        )
    else:
        clients = data.federate(
            dealt.train, dealt.owners, held_out=dealt.held_out, sharding=everywhere
        )
    if shard_data:
        clients = data.shard(clients, federated.sharded_by_client(mesh))
    test, validation = trees.place((dealt.test, dealt.validation), everywhere)
    return LabData(clients, test, validation, dealt.facts)
