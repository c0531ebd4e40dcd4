"""The data sets that the lab knows by name."""

from __future__ import annotations

from ppml_lab import arguments, checks
from ppml_lab.data import published
from ppml_lab.data.cifar import cifar10
from ppml_lab.data.dataset import Dataset
from ppml_lab.data.location import location30
from ppml_lab.data.mnist import fashion_mnist, mnist
from ppml_lab.data.packaged import breast_cancer, diabetes, digits, rossi
from ppml_lab.data.plays import shakespeare
from ppml_lab.data.synthetic import synthetic
from ppml_lab.data.tabular import adult, heart_disease


def _synthetic() -> Dataset:
    return synthetic(seed=0, num_clients=100, alpha=1.0, beta=1.0)


_LOADERS = {
    "adult": adult,
    "breast_cancer": breast_cancer,
    "cifar10": cifar10,
    "diabetes": diabetes,
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "heart_disease": heart_disease,
    "location30": location30,
    "mnist": mnist,
    "rossi": rossi,
    "shakespeare": shakespeare,
    "synthetic": _synthetic,
}


def names() -> list[str]:
    """The names that `load` knows."""
    return sorted(_LOADERS)


def sources(name: str) -> published.Files:
    """The files of a data set that `load` knows; none if it needs no files.

    Raises:
      ValueError: For an unknown name.
    """
    checks.known("data set", name, _LOADERS, argument="name")
    return published.FILES.get(name, published.Files({}, {}))


@arguments.checked
def load(name: str) -> Dataset:
    """Loads a data set by name: "adult", "breast_cancer", "cifar10", "diabetes",
    "digits", "fashion_mnist", "heart_disease", "location30", "mnist", "rossi",
    "shakespeare" or "synthetic".

    "synthetic" is `synthetic(seed=0, num_clients=100, alpha=1.0, beta=1.0)`; call that
    function for other settings.

    Raises:
      ValueError: For an unknown name, or a damaged file.
      FileNotFoundError: If files are missing and could not be downloaded; says where to
        put them.
      ImportError: For "rossi" without the package that contains it.
    """
    checks.known("data set", name, _LOADERS, argument="name")
    return _LOADERS[name]()
