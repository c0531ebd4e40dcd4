"""Data sets, as parts."""

from __future__ import annotations

from typing import Any, Protocol

from ppml_lab import data
from ppml_lab.data import cifar, plays
from ppml_lab.data.tabular import Scaling
from ppml_lab.lab.tree.part import part


class Data(Protocol):
    """A part that loads examples.

    It may have a field or attribute `num_classes`, the number of labels, and an
    attribute `title`, the name of the data in tables where the part's class and fields
    do not say enough.
    """

    def load(self) -> tuple[Any, Any, Any]:
        """Returns `(train, users, test)`: train and test are pytrees of host arrays
        `[n, ...]`, and users says who produced each row of train (None where not
        known).

        For data that are already dealt to clients, train is `base.Clients` and users
        None.
        """
        ...


def _loaded(dataset: data.Dataset) -> tuple[Any, Any, Any]:
    return dataset.train, dataset.train_users, dataset.test


@part
class Digits:
    """1,437 handwritten digits of 8x8 pixels, embedded; 360 test. See `data.load`."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Reads scikit-learn's copy; users are not known."""
        return _loaded(data.load("digits"))


@part
class Mnist:
    """60,000 handwritten digits of 28x28 pixels by 539 writers; 10,000 test."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the files on disk, or downloads them."""
        return _loaded(data.load("mnist"))


@part
class FashionMnist:
    """60,000 articles of clothing of 28x28 pixels; 10,000 test."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the files on disk, or downloads them; there are no users."""
        return _loaded(data.load("fashion_mnist"))


@part
class Cifar10:
    """50,000 colour images of 32x32 pixels in ten classes; 10,000 test."""

    num_classes = 10

    @property
    def title(self) -> str:
        """The name in tables, with "JPEG q75" where JPEG files are read: see
        `data.cifar`.
        """
        return cifar.JPEG_NAME if cifar.reads_jpeg() else "CIFAR-10"

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the files on disk, or downloads them; there are no users."""
        return _loaded(data.load("cifar10"))


@part
class Shakespeare:
    """Speeches of 1,377 roles in 37 plays: which character comes next?"""

    sequence_length: int = 80
    """Number of characters in a row."""
    least_speeches: int = 1
    """Roles with fewer speeches are left out; LEAF's rule is 2."""

    num_classes = plays.NUM_TOKENS

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the files on disk; users are the roles. See `data.shakespeare`."""
        dataset = data.shakespeare(
            sequence_length=self.sequence_length, least_speeches=self.least_speeches
        )
        return _loaded(dataset)


@part
class Location30:
    """Places of 5,010 people of Bangkok, one row each: which of 30 clusters is it?"""

    num_classes = 30

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the files on disk; there are no users."""
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
    """Diabetes progression of 442 patients, a number."""

    def load(self) -> tuple[Any, Any, Any]:
        """Reads scikit-learn's copy; there are no users, and no classes."""
        return _loaded(data.load("diabetes"))


@part
class Rossi:
    """Weeks until arrest of 432 released prisoners; some were not arrested
    (censored).
    """

    def load(self) -> tuple[Any, Any, Any]:
        """Reads lifelines' copy; rows have a time and an event, and no classes."""
        return _loaded(data.load("rossi"))


@part
class Adult:
    """Census data of 48,842 people: is the income above 50,000 dollars?"""

    scaled_by: Scaling = "train_rows"
    """Scaling of numeric columns: by the train rows' means and stds, or by ranges that
    are known without the data, so that epsilon covers all that training sees."""

    num_classes = 2

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the files on disk, or downloads them. See `data.adult`."""
        return _loaded(data.adult(self.scaled_by))


@part
class HeartDisease:
    """Patients of four hospitals: do they have heart disease?"""

    scaled_by: Scaling = "train_rows"
    """Scaling of columns: by means and stds of each hospital's train rows, or by ranges
    that are known without the data, so that epsilon covers all that training sees."""

    num_classes = 2

    def load(self) -> tuple[Any, Any, Any]:
        """Reads the files on disk, or downloads them; users are the hospitals.

        See `data.heart_disease`.
        """
        return _loaded(data.heart_disease(self.scaled_by))


@part
class Synthetic:
    """FedProx's synthetic data: each client labels its own inputs with its own
    model.
    """

    num_clients: int = 100
    """Number of clients, which are the data's users."""
    beta: float = 1.0
    """Variance between the clients' input centres."""
    seed: int = 0
    """Seed of the draws."""

    num_classes = 10

    def load(self) -> tuple[Any, Any, Any]:
        """Draws the data from `seed`; see `data.synthetic`, whose alpha changes
        nothing.
        """
        made = data.synthetic(self.seed, self.num_clients, 1.0, self.beta)
        return _loaded(made)
