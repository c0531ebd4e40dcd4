"""The owners' parts of data that may not be pooled, case by case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppml_lab import data
from ppml_lab.smpc import private

PERSONAL = ("age", "sex", "race", "marital-status", "relationship", "native-country")
Parts = Mapping[Any, dict[str, np.ndarray]]


class Case:
    """A case: the owners' parts of the data, and the model that learns from them."""

    def __init__(
        self,
        parts: Parts,
        test: dict[str, np.ndarray],
        axis: int,
        kind: str,
        num_parties: int,
        learning_rate: float,
        delta: float,
        clip_norm: float,
    ) -> None:
        self.parts, self.test, self.axis = parts, test, axis
        self.kind, self.num_parties = kind, num_parties
        self.learning_rate, self.delta = learning_rate, delta
        self.clip_norm = clip_norm
        self.num_examples = len(self.join(parts)["y"])

    def join(self, parts: Any) -> Any:
        """Joins rows one after the other, or columns side by side with the first's
        labels.
        """
        some = list(parts.values())
        x = jnp.concatenate([part["x"] for part in some], axis=self.axis)
        labels = [part["y"] for part in some if "y" in part]
        return {"x": x, "y": jnp.concatenate(labels)}

    def clipped(self) -> Parts:
        """Clips each owner's features; where columns are split, to the owner's part of
        the norm.
        """
        share = np.sqrt(len(self.parts)) if self.axis == 1 else 1.0

        def bounded(x: np.ndarray) -> np.ndarray:
            norms = np.linalg.norm(x, axis=1, keepdims=True)
            return x * np.minimum(1, self.clip_norm / share / np.maximum(norms, 1e-9))

        return {
            owner: part | {"x": bounded(part["x"]).astype(np.float32)}
            for owner, part in self.parts.items()
        }

    def protocol(self, bits: Any, *, ideal: bool = True) -> private.Protocol:
        return private.protocol(
            self.kind, num_parties=self.num_parties, fraction_bits=bits, ideal=ideal
        )


def by_rows(dataset: data.Dataset) -> Case:
    def table(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        ones = np.ones((len(x), 1), np.float32)
        return {"x": np.concatenate([x, ones], 1), "y": y.astype(np.float32)}

    owners = dataset.train_users
    assert owners is not None
    parts = {
        f"hospital {owner}": table(
            dataset.train["x"][owners == owner], dataset.train["y"][owners == owner]
        )
        for owner in np.unique(owners)
    }
    test = table(dataset.test["x"], dataset.test["y"])
    return Case(parts, test, 0, "replicated", 3, 1.0, 1e-3, 4.0)


def by_columns(dataset: data.Dataset) -> Case:
    names = [name.split("=")[0] for name in dataset.feature_names or ()]
    personal = np.isin(names, PERSONAL)

    def table(examples: dict[str, np.ndarray]) -> dict[int, dict[str, np.ndarray]]:
        x, ones = examples["x"], np.ones((len(examples["x"]), 1), np.float32)
        return {
            0: {"x": np.concatenate([x[:, personal], ones], 1),
                "y": examples["y"].astype(np.float32)},
            1: {"x": x[:, ~personal]},
        }  # fmt: skip

    test = table(dataset.test)
    joined = {"x": np.concatenate([part["x"] for part in test.values()], 1)}
    joined["y"] = test[0]["y"]
    return Case(table(dataset.train), joined, 1, "additive", 2, 1.0, 1e-5, 4.0)


def images(dataset: data.Dataset) -> Case:
    num_classes = dataset.num_classes
    assert num_classes is not None

    def table(examples: dict[str, np.ndarray], order: np.ndarray) -> Any:
        x = examples["x"].reshape(len(examples["y"]), -1)
        labels = np.eye(num_classes, dtype=np.float32)[examples["y"]]
        return {"x": x[order], "y": labels[order]}

    order = np.random.default_rng(0).permutation(len(dataset.train["y"]))
    parts = {n: table(dataset.train, rows) for n, rows in
             enumerate(np.array_split(order, 3))}  # fmt: skip
    test = table(dataset.test, np.arange(len(dataset.test["y"])))
    return Case(parts, test, 0, "replicated", 3, 0.1, 1e-5, 0.0)


def random_rows() -> data.Dataset:
    """Random data of two classes, 13 features and four owners."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 13)).astype(np.float32)
    y = (x @ rng.normal(size=13) > 0).astype(np.int32)
    owners = np.arange(200) % 4
    return data.Dataset(
        "random", {"x": x[:200], "y": y[:200]}, {"x": x[200:], "y": y[200:]}, 2,
        owners, None,
    )  # fmt: skip


CASES: dict[str, Callable[[], Case]] = {
    "random": lambda: by_rows(random_rows()),
    "heart": lambda: by_rows(data.load("heart_disease")),
    "adult": lambda: by_columns(data.load("adult")),
    "mnist": lambda: images(data.load("mnist")),
}
