"""The patterns that privacy_utility compares, and the ranges in which each is tuned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ppml_lab import lab
from ppml_lab.lab import parts
from ppml_lab.lab.tree import paths

INF = float("inf")
COLUMNS = ("client_rate", "server_rate", "clip_norm")
_PATHS = {
    "client_rate": "trainer.optimizer.learning_rate",
    "server_rate": "server.learning_rate",
    "clip_norm": "mechanism.clip_norm",
}
_CENTRAL = {
    "client_rate": "optimizer.learning_rate",
    "clip_norm": "mechanism.clip_norm",
}


@lab.part
class Box:
    """The ranges, two decades each, from which settings are drawn."""

    client_rate: tuple[float, float] = (0.1, 10.0)
    """Learning rate of clients' steps; in central training, of its steps."""
    server_rate: tuple[float, float] = (0.1, 10.0)
    """Learning rate of the server's step; central training has none."""
    clip_norm: tuple[float, float] = (0.1, 10.0)
    """Clip norm of the private patterns."""


@lab.part
class Study:
    """A data set, a model, and the patterns on them."""

    base: parts.Federated = parts.Federated(
        partition=parts.Iid(350),
        trainer=parts.FedAvg(parts.Sgd(2.0), batch_size=4, local_epochs=5),
        server=parts.Sgd(2.0),
        sampler=parts.Everyone(),
        schedule=lab.Schedule(num_rounds=30, eval_every=15),
    )
    """The setup of federated averaging without DP; the patterns change its parts."""
    central_batch: parts.Sampler = parts.Poisson(256)
    """The sampler of a step's examples in central training."""
    central_steps: int = 10
    """Steps of central training per round."""
    delta: float = 1e-4
    """Delta of a whole run: below 1 / number of clients."""
    central: Box = Box((0.2, 20.0))
    """Ranges of central training."""
    private_central: Box = Box((0.2, 20.0), clip_norm=(0.05, 5.0))
    """Ranges of central training with DP."""
    plain: Box = Box((0.2, 20.0), (0.2, 20.0))
    """Ranges of federated averaging, with secure aggregation too."""
    private: Box = Box(server_rate=(0.2, 20.0))
    """Ranges of federated averaging with central DP, with secure aggregation too."""
    local: Box = Box(server_rate=(0.02, 2.0))
    """Ranges of federated averaging with local DP."""

    def boxes(self) -> dict[str, Box]:
        """The ranges of every pattern, in the table's order."""
        return {
            "central training": self.central,
            "federated": self.plain,
            "federated + secure sum": self.plain,
            "central training + DP": self.private_central,
            "federated + central DP": self.private,
            "federated + central DP + secure sum": self.private,
            "federated + local DP": self.local,
        }

    def setups(self) -> dict[str, Any]:
        """The setup of every pattern, with tuned numbers in the middle of its box."""
        plain = self.base
        central = parts.Central(
            data=plain.data,
            model=plain.model,
            batch=self.central_batch,
            steps_per_round=self.central_steps,
            metrics=plain.metrics,
            schedule=plain.schedule,
            layout=plain.layout,
        )
        noisy = replace(plain, mechanism=parts.Gaussian())
        made = {
            "central training": central,
            "federated": plain,
            "federated + secure sum": replace(
                plain, secure_sum=parts.AdditiveSharing(max_abs=8.0)
            ),
            "central training + DP": replace(central, mechanism=parts.Gaussian()),
            "federated + central DP": noisy,
            "federated + central DP + secure sum": replace(
                noisy, secure_sum=parts.AdditiveSharing()
            ),
            "federated + local DP": replace(noisy, mechanism=parts.LocalGaussian()),
        }
        return {
            name: with_numbers(setup, middle(setup, self.boxes()[name]))
            for name, setup in made.items()
        }


def is_private(setup: Any) -> bool:
    """Returns whether a pattern's epsilon is finite."""
    return not isinstance(setup.mechanism, parts.NoPrivacy)


def tuned(setup: Any) -> dict[str, str]:
    """The key paths of tuned numbers, by column."""
    found = _CENTRAL if isinstance(setup, parts.Central) else _PATHS
    names = COLUMNS if is_private(setup) else COLUMNS[:2]
    return {name: found[name] for name in names if name in found}


def middle(setup: Any, box: Box) -> dict[str, float]:
    """Geometric means of the ranges of tuned numbers."""
    return {name: math.sqrt(math.prod(getattr(box, name))) for name in tuned(setup)}


def with_numbers(setup: Any, numbers: Mapping[str, float]) -> Any:
    """A pattern with other tuned numbers, given by column."""
    for name, path in tuned(setup).items():
        setup = paths.replaced(setup, path, numbers[name])
    return setup


def numbers(setup: Any) -> dict[str, float | None]:
    """A pattern's tuned numbers, by column; None for numbers that it does not have."""
    own = tuned(setup)
    return {
        name: float(paths.value_at(setup, own[name])) if name in own else None
        for name in COLUMNS
    }
