"""Data sets, as parts."""

from __future__ import annotations

from typing import Any, Protocol

from ppml_lab import data
from ppml_lab.data import cifar, plays
from ppml_lab.lab.tree.part import part


class Data(Protocol):
    """A part that loads examples. A field or attribute `num_classes`, where there is
    one, says how many labels there are; an attribute `title`, what tables call the
    data, where that is more than the part's class and fields.
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
class Cifar10:
    """50,000 images of 32x32 pixels in colour, of ten things; 10,000 test."""

    num_classes = 10

    @property
    def title(self) -> str:
        """With "JPEG q75" where that is what is read: see `data.cifar`."""
        return cifar.JPEG_NAME if cifar.reads_jpeg() else "CIFAR-10"

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the disk, else the network; there are no users."""
        return _loaded(data.load("cifar10"))


@part
class Shakespeare:
    """Speeches of 1,377 roles in 37 plays: which character comes next?"""

    sequence_length: int = 80
    """Characters of a row."""
    least_speeches: int = 1
    """Roles with fewer are left out; LEAF's rule is 2."""

    num_classes = plays.NUM_TOKENS

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the disk; users are the roles. See `data.shakespeare`."""
        dataset = data.shakespeare(
            sequence_length=self.sequence_length, least_speeches=self.least_speeches
        )
        return _loaded(dataset)


@part
class Location30:
    """Where 5,010 people of Bangkok were, a row each: of 30 clusters, which is it?"""

    num_classes = 30

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the disk; there are no users."""
        return _loaded(data.load("location30"))


@part
class BreastCancer:
    """Tumours of 569 patients, malignant or benign."""

    num_classes = 2

    def load(self) -> tuple[Any, Any, Any]:
        """Reads scikit-learn's copy; there are no users."""
        return _loaded(data.load("breast_cancer"))


@part
class Diabetes:
    """How far diabetes went in 442 patients, a number."""

    def load(self) -> tuple[Any, Any, Any]:
        """Reads scikit-learn's copy; there are no users, and no classes."""
        return _loaded(data.load("diabetes"))


@part
class Rossi:
    """Weeks until 432 released prisoners were arrested again, or were not."""

    def load(self) -> tuple[Any, Any, Any]:
        """Reads lifelines' copy; rows have a time and an event, and no classes."""
        return _loaded(data.load("rossi"))


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
