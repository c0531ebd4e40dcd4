"""Re-splits of a table's people into train and test, as data parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.silos.sources import Rows, Source
from ppml_lab import data, lab


@lab.part
class Split:
    """One split, stratified by silo and label; the users are the silos."""

    source: Source
    """The table."""
    number: int = 0
    """Number of the split, the seed of its draw."""
    train_share: float = 0.66
    """The share of each silo's and label's people that is trained on."""

    num_classes = 2

    @property
    def title(self) -> str:
        """The table's name."""
        return self.source.title

    def load(self) -> tuple[Any, Any, Any]:
        """Returns the train rows, their silos, and the test rows."""
        rows, is_train = self.source.rows(), self.is_train()
        return (
            _chosen(rows, is_train),
            rows.silo[is_train],
            _chosen(rows, ~is_train),
        )

    def is_train(self) -> np.ndarray:
        """Returns True for the train rows, `[n]`: people are drawn, and rows go with
        their person.

        Raises:
          ValueError: If nobody is left to test on.
        """
        rows, rng = self.source.rows(), np.random.default_rng([self.number, *b"split"])
        people, first, own = np.unique(
            rows.person, return_index=True, return_inverse=True
        )
        strata = 2 * rows.silo[first] + rows.y[first]
        is_train = np.zeros(len(people), bool)
        for stratum in np.unique(strata):
            those = rng.permutation(np.flatnonzero(strata == stratum))
            # A stratum of one person is trained on.
            is_train[those[: max(1, round(self.train_share * len(those)))]] = True
        if is_train.all():
            raise ValueError(
                f"train_share {self.train_share:g} leaves nobody to test on, as every "
                "label of every silo has one or two people; lower train_share, or name "
                "a silo that has more people"
            )
        return is_train[own]


@lab.part
class OneSilo(Split):
    """The split's train rows of one silo; its test rows are everybody's."""

    silo: int = 0
    """Place of the silo's name."""

    def load(self) -> tuple[Any, Any, Any]:
        """Returns the silo's train rows, and everybody's test rows."""
        train, silos, test = super().load()
        own = silos == self.silo
        return {name: leaf[own] for name, leaf in train.items()}, silos[own], test


@lab.part
class InPlace(Split):
    """The split's test rows stay with their silos, which hold them out."""

    def load(self) -> tuple[Any, Any, Any]:
        """Returns a client for each silo, its test rows last, and all test rows."""
        rows, is_train = self.source.rows(), self.is_train()
        clients = data.federate(_leaves(rows), rows.silo, held_out=~is_train)
        return clients, None, _chosen(rows, ~is_train)


def _leaves(rows: Rows) -> dict[str, np.ndarray]:
    found = {"x": rows.x, "y": rows.y, "silo": rows.silo.astype(np.int32)}
    if rows.has_visits:
        found["person"] = rows.person.astype(np.int32)
    return found


def _chosen(rows: Rows, which: np.ndarray) -> dict[str, np.ndarray]:
    return {name: leaf[which] for name, leaf in _leaves(rows).items()}
