"""The patterns that privacy_utility compares, and where each is tuned."""

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
    """Ends of the ranges, two decades each, from which settings are drawn."""

    client_rate: tuple[float, float] = (0.1, 10.0)
    """Of clients' steps; in central training of the steps."""
    server_rate: tuple[float, float] = (0.1, 10.0)
    """Of the server's; central training has none."""
    clip_norm: tuple[float, float] = (0.1, 10.0)
    """Of the private patterns."""


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
    """Federated averaging without DP; the patterns change its parts."""
    central_batch: parts.Sampler = parts.Poisson(256)
    """Which examples a step of central training takes."""
    central_steps: int = 10
    """Of central training per round."""
    delta: float = 1e-4
    """Delta of a whole run: below 1 / number of clients."""
    central: Box = Box((0.2, 20.0))
    """Of central training."""
    private_central: Box = Box((0.2, 20.0), clip_norm=(0.05, 5.0))
    """Of central training with DP."""
    plain: Box = Box((0.2, 20.0), (0.2, 20.0))
    """Of federated averaging, with a secure sum too."""
    private: Box = Box(server_rate=(0.2, 20.0))
    """Of federated averaging with central DP, with a secure sum too."""
    local: Box = Box(server_rate=(0.02, 2.0))
    """Of federated averaging with local DP."""

    def boxes(self) -> dict[str, Box]:
        """Of every pattern, in the table's order."""
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
        """Every pattern's, with the numbers that are tuned in the middle of its box."""
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
    """Whether a pattern's epsilon is finite."""
    return not isinstance(setup.mechanism, parts.NoPrivacy)


def tuned(setup: Any) -> dict[str, str]:
    """The key paths that are tuned, by their column."""
    found = _CENTRAL if isinstance(setup, parts.Central) else _PATHS
    names = COLUMNS if is_private(setup) else COLUMNS[:2]
    return {name: found[name] for name in names if name in found}


def middle(setup: Any, box: Box) -> dict[str, float]:
    """Geometric means of the ranges of what is tuned."""
    return {name: math.sqrt(math.prod(getattr(box, name))) for name in tuned(setup)}


def with_numbers(setup: Any, numbers: Mapping[str, float]) -> Any:
    """A pattern with other numbers, by their column."""
    for name, path in tuned(setup).items():
        setup = paths.replaced(setup, path, numbers[name])
    return setup


def numbers(setup: Any) -> dict[str, float | None]:
    """What is tuned of a pattern, by column; None for what it does not have."""
    own = tuned(setup)
    return {
        name: float(paths.value_at(setup, own[name])) if name in own else None
        for name in COLUMNS
    }
