"""The scattering features of images, as a part."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppml_lab import trees
from ppml_lab.data import scattering
from ppml_lab.lab.columns import title_of
from ppml_lab.lab.parts.data import Data, FashionMnist
from ppml_lab.lab.tree.part import part


@part
class Scattered:
    """Fixed features of the images of another data part.

    A linear model of these features learns privately what a linear model of pixels
    cannot. See `data.scattering.features`.

    Scattered(data=FashionMnist())    # 28x28 pixels become 7 x 7 x 81 features

    Features take 5 times the memory of grey pixels: 952 MB for Fashion-MNIST's train
    rows. The features of the last train and test rows are cached, because every way of
    dealing the rows to clients loads them again.
    """

    data: Data = FashionMnist()
    """The part that loads the images."""
    num_scales: int = 2
    """Number of wavelengths, each twice the one before; sides shrink by 2 to this
    power."""
    num_angles: int = 8
    """Number of directions of each wavelength."""
    num_groups: int = 27
    """Number of groups of a place's features; each group is normalised in every image
    by itself."""

    @property
    def num_classes(self) -> int | None:
        """The number of labels of the images; None where the data do not say."""
        return getattr(self.data, "num_classes", None)

    @property
    def title(self) -> str:
        """The images' title, and the numbers of the transform that differ from their
        defaults.
        """
        default = {field.name: field.default for field in dataclasses.fields(self)}
        given = [
            f"{name}={getattr(self, name)}"
            for name in default
            if name != "data" and getattr(self, name) != default[name]
        ]
        return f"{title_of(self.data)} ({', '.join(['scattering', *given])})"

    def load(self) -> tuple[Any, Any, Any]:
        """Transforms the images, which takes a minute or two on 2 cores.

        The users are those of the images.

        Raises:
          ValueError: If the rows are no images that fit, or are dealt to clients.
        """
        train, users, test = self.data.load()
        return self._of(train, "train"), users, self._of(test, "test")

    def _of(self, rows: Any, which: str) -> Any:
        where = f"Scattered.data {type(self.data).__name__}: {which}"
        images = rows["x"] if isinstance(rows, Mapping) and "x" in rows else ()
        if np.ndim(images) != 4:
            raise ValueError(
                f'{where} must be images {{"x": [n, height, width, channels], ...}}, '
                f"got {_shown(rows)}; give a part that loads images, such as "
                "FashionMnist()"
            )
        try:
            features = _features(
                _Images(np.asarray(images)),
                self.num_scales,
                self.num_angles,
                self.num_groups,
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return {**rows, "x": features}


def _shown(rows: Any) -> str:
    if isinstance(rows, Mapping):
        return str({name: list(np.shape(leaf)) for name, leaf in rows.items()})
    return type(rows).__name__


class _Images:
    """Images that equal other images of the same values, so that a cache knows them."""

    def __init__(self, images: np.ndarray) -> None:
        """Computes the digest of the images."""
        self.images, self.digest = images, trees.digest(images)

    def __eq__(self, other: object) -> bool:
        """Compares digests."""
        return isinstance(other, _Images) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hashes the digest."""
        return hash(self.digest)


@functools.lru_cache(maxsize=2)
def _features(images: _Images, *numbers: int) -> np.ndarray:
    found = scattering.features(images.images, *numbers)
    found.setflags(write=False)  # The cache gives callers this same array.
    return found
