"""Ways to deal a data set to clients, as parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ppml_lab import checks, data
from ppml_lab.data import columns
from ppml_lab.lab.tree.part import part


class Partition(Protocol):
    """A part that says who owns which example."""

    def deal(self, train: Any, users: Any) -> np.ndarray:
        """Returns the client of each row of `train`, counted from 0.

        Args:
          train: A pytree of host arrays `[n, ...]`.
          users: `[n]`, who produced each row; None where this is not known.
        """
        ...


def _labels(train: Any) -> Any:
    if not isinstance(train, Mapping) or "y" not in train:
        raise ValueError(
            'partition deals by labels, but train has no "y"; use Iid, QuantitySkew or '
            "Natural, or your own partition"
        )
    return train["y"]


def _rng(seed: int) -> np.random.Generator:
    checks.at_least("seed", seed, 0)
    return np.random.default_rng(seed)


@part
class Iid:
    """Shuffled examples, dealt out evenly."""

    num_clients: int = 100
    """Number of clients."""
    seed: int = 0
    """Seed of the shuffle."""

    def deal(self, train: Any, users: Any) -> np.ndarray:
        """See `data.partition.iid`."""
        rng = _rng(self.seed)
        count = columns.num_examples("train", train)
        return data.partition.iid(rng, count, self.num_clients)


@part
class Dirichlet:
    """Label skew: each class is divided by its own draw from Dirichlet(alpha)."""

    num_clients: int = 100
    """Number of clients."""
    alpha: float = 0.5
    """Concentration of the Dirichlet distribution; small values are more skewed."""
    seed: int = 0
    """Seed of the draws."""

    def deal(self, train: Any, users: Any) -> np.ndarray:
        """See `data.partition.dirichlet`."""
        rng = _rng(self.seed)
        return data.partition.dirichlet(
            rng, _labels(train), self.num_clients, self.alpha
        )


@part
class Shards:
    """Examples sorted by label and cut into shards, dealt to clients at random."""

    num_clients: int = 100
    """Number of clients."""
    shards_per_client: int = 2
    """Shards per client."""
    seed: int = 0
    """Seed of the shuffle."""

    def deal(self, train: Any, users: Any) -> np.ndarray:
        """See `data.partition.shards`."""
        rng = _rng(self.seed)
        return data.partition.shards(
            rng, _labels(train), self.num_clients, self.shards_per_client
        )


@part
class LabelLimited:
    """Every client has examples of exactly `labels_per_client` classes."""

    num_clients: int = 100
    """Number of clients."""
    labels_per_client: int = 2
    """Classes per client."""
    seed: int = 0
    """Seed of the draws."""

    def deal(self, train: Any, users: Any) -> np.ndarray:
        """See `data.partition.label_limited`."""
        rng = _rng(self.seed)
        return data.partition.label_limited(
            rng, _labels(train), self.num_clients, self.labels_per_client
        )


@part
class QuantitySkew:
    """Random examples; the number per client follows a log-normal distribution."""

    num_clients: int = 100
    """Number of clients."""
    sigma: float = 1.0
    """Standard deviation of the logarithm of a client's number of examples."""
    seed: int = 0
    """Seed of the draws."""

    def deal(self, train: Any, users: Any) -> np.ndarray:
        """See `data.partition.quantity_skew`."""
        rng = _rng(self.seed)
        count = columns.num_examples("train", train)
        return data.partition.quantity_skew(rng, count, self.num_clients, self.sigma)


@part
class Natural:
    """The data's own users: each is one client."""

    def deal(self, train: Any, users: Any) -> np.ndarray:
        """See `data.partition.natural`."""
        if users is None:
            raise ValueError(
                "partition Natural deals rows to the data's own users, but these data "
                "have none; name them (TableFile has a field user), or deal rows "
                "otherwise, such as by partition=parts.Iid(20)"
            )
        return data.partition.natural(users)
