"""Data sets, as parts."""

from __future__ import annotations

from typing import Any, Protocol

from ppml_lab import data
from ppml_lab.lab.tree.part import part


class Data(Protocol):
    """A part that loads examples. A field or attribute `num_classes`, where there is
    one, says how many labels there are.
    """

    def load(self) -> tuple[Any, Any, Any]:
        """`(train, users, test)`: pytrees of host arrays `[n, ...]` and, for each row
        of train, who produced it (None where nobody knows). In place of train and users
        `base.Clients` and None, for data that are dealt already.
        """
        ...


def _loaded(dataset: data.Dataset) -> tuple[Any, Any, Any]:
    return dataset.train, dataset.train_users, dataset.test


@part
class Digits:
    """1,437 handwritten digits of 8x8 pixels, embedded; 360 test. See `data.load`."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Reads scikit-learn's copy; nobody knows the users."""
        return _loaded(data.load("digits"))


@part
class Mnist:
    """60,000 handwritten digits of 28x28 pixels by 539 writers; 10,000 test."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the disk, else the network."""
        return _loaded(data.load("mnist"))


@part
class FashionMnist:
    """60,000 articles of clothing of 28x28 pixels; 10,000 test."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the disk, else the network; there are no users."""
        return _loaded(data.load("fashion_mnist"))


@part
class Adult:
    """Census incomes above 50,000 dollars or not, from 30,162 people."""

    num_classes = 2

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the disk, else the network."""
        return _loaded(data.load("adult"))


@part
class HeartDisease:
    """Patients of four hospitals, with heart disease or without."""

    num_classes = 2

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the disk, else the network; users are the hospitals."""
        return _loaded(data.load("heart_disease"))


@part
class Synthetic:
    """FedProx's made data: each client labels its own inputs with its own model."""

    num_clients: int = 100
    """Clients, which are the data's users."""
    beta: float = 1.0
    """Variance of the clients' input centres."""
    seed: int = 0
    """Of the draws."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Made anew; see `data.synthetic`, whose alpha changes nothing."""
        made = data.synthetic(self.seed, self.num_clients, 1.0, self.beta)
        return _loaded(made)
