"""Tables of several silos: four hospitals, and workplaces that stand in for silos."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import numpy as np

from ppml_lab import data, lab, trees


class Rows(NamedTuple):
    """All rows of a table, before any split."""

    x: np.ndarray
    """Features `[n, columns]`, scaled by public ranges."""
    y: np.ndarray
    """Labels `[n]`, 0 or 1."""
    silo: np.ndarray
    """The silo of each row `[n]`, as a place in `names`."""
    names: tuple[str, ...]
    """Names of the silos, which are public."""
    person: np.ndarray
    """The person of each row, `[n]`."""

    @property
    def has_visits(self) -> bool:
        """True where a person has several rows."""
        return self.num_people < len(self.person)

    @property
    def num_people(self) -> int:
        """The number of people."""
        return len(np.unique(self.person))

    @property
    def digest(self) -> str:
        """Identifies the rows, as a text."""
        return trees.digest({"x": self.x, "y": self.y, "silo": self.silo})


class Source(Protocol):
    """A part that reads a table of several silos."""

    @property
    def title(self) -> str:
        """The name in results tables."""
        ...

    @property
    def is_public(self) -> bool:
        """True if anybody may know the rows, so that tables may hold their digest."""
        ...

    def rows(self) -> Rows:
        """Reads the table."""
        ...


@lab.part
class Heart:
    """Heart disease at four hospitals, 740 patients; see `data.heart_disease`."""

    title = "HeartDisease, public ranges"
    """The name in results tables."""
    is_public = True
    """True if anybody may know the rows."""

    def rows(self) -> Rows:
        """Reads the files on disk, or downloads them."""
        return _heart()


@lab.part
class Workclass:
    """Adult by class of work, as six synthetic silos: 46,012 people; see `data.adult`.

    A silo's own class of work is no feature. People whose class is not known, and those
    who never worked or work without pay (31), are left out.
    """

    title = "Adult by workclass (synthetic silos), public ranges"
    """The name in results tables."""
    is_public = True
    """True if anybody may know the rows."""

    def rows(self) -> Rows:
        """Reads the files on disk, or downloads them."""
        return _workclass()


@functools.lru_cache(maxsize=1)
def _heart() -> Rows:
    names = ("Cleveland", "Hungary", "Switzerland", "Long Beach")
    dataset = data.heart_disease("public_ranges")
    assert dataset.train_users is not None
    assert dataset.test_users is not None
    silo = np.concatenate([dataset.train_users, dataset.test_users])
    return _rows(dataset, silo, names)


@functools.lru_cache(maxsize=1)
def _workclass() -> Rows:
    dataset, start = data.adult("public_ranges"), "workclass="
    columns = dataset.feature_names or ()
    own = np.array([name.startswith(start) for name in columns])
    known = [name.removeprefix(start) for name in np.compress(own, columns)]
    x = _both(dataset)["x"]
    place = x[:, own].argmax(axis=1)
    kept = [n for n in known if n not in ("?", "Never-worked", "Without-pay")]
    silo = np.array([kept.index(n) if n in kept else -1 for n in known])[place]
    whole = _rows(dataset, silo, tuple(kept))
    is_kept = silo >= 0
    return whole._replace(
        x=whole.x[is_kept][:, ~own],
        y=whole.y[is_kept],
        silo=silo[is_kept],
        person=whole.person[is_kept],
    )


def _both(dataset: data.Dataset) -> dict[str, Any]:
    """The train rows, followed by the test rows."""
    return {
        name: np.concatenate([leaf, dataset.test[name]])
        for name, leaf in dataset.train.items()
    }


def _rows(dataset: data.Dataset, silo: np.ndarray, names: tuple[str, ...]) -> Rows:
    """Joins both sides of a data set of which every row is another person."""
    both = _both(dataset)
    return Rows(both["x"], both["y"], silo, names, np.arange(len(both["y"])))
