"""What the lab knows of a run: the protocol of setups, and what all of them have.

A setup is a part (`lab.part`) whose class has the attributes and methods of `Setup`.
Its structure is what compiles, its numbers are what a sweep may change, and a number's
key path, such as "trainer.optimizer.learning_rate", is its name everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ppml_lab import base, checks, data, federated, target
from ppml_lab.federated import evaluation
from ppml_lab.lab.tree import paths
from ppml_lab.lab.tree.fields import fields_of, is_part
from ppml_lab.lab.tree.part import part

OF_A_POINT = ("seed", "delta", "target_epsilon")
"""What a sweep sets that is no field of a setup."""

ON_HOST = ("data", "partition", "schedule", "layout")
"""The fields of a setup that are read on the host and hold no traced number."""


class Facts(NamedTuple):
    """What algorithms need to know about the data when they are built."""

    num_clients: int
    """How many clients there are."""
    num_examples: int
    """How many examples are trained."""
    max_client_size: int
    """The most that one client trains on."""
    example: PyTree
    """Shapes and types of one example (`jax.ShapeDtypeStruct`)."""
    num_classes: int | None = None
    """How many labels there are, if the data say."""
    delta: float | None = None
    """At which epsilon is stated; read by live epsilon alone."""
    digests: data.Digests | None = None
    """What the train examples are; None for facts about no data, of which nothing is
    trained."""
    judged_by: str | None = None
    """A digest of the test and validation rows, and of those that clients hold out, of
    which no key is made; None for facts about no data."""
    num_held_out: int = 0
    """How many rows clients hold out, to judge their own models."""
    people: data.People | None = None
    """Whose examples these are; None where that is not known."""


@part
class Schedule:
    """How long a run is, when it is evaluated, and what it is judged by."""

    num_rounds: int = 50
    """Rounds of training."""
    eval_every: int = 10
    """Rounds between evaluations."""
    evals_per_chunk: int = 1
    """Evaluations between two visits to the host; a killed run loses at most so many.
    """
    validation: float = 0.0
    """Share of the train rows that is held out (of the users, where there are users),
    the only rows that stopping and choosing look at. Nothing is promised for them."""
    metric: str = "accuracy"
    """What stopping and choosing look at: "loss" for `validation_loss`."""
    higher_is_better: bool | None = None
    """Of the metric; None for one whose name says it, as those of "accuracy" and
    "loss" do."""
    stop_at: float | None = None
    """Ends a run after a chunk in which the metric reached this."""
    keep: Literal["last", "best"] = "last"
    """Which evaluation a run's result is: its last, or its best by the metric. Whose
    parameters are kept is `run_sweep`'s, in the same words."""

    def __post_init__(self) -> None:
        """Checks the numbers."""
        checks.at_least("num_rounds", self.num_rounds, 1)
        checks.at_least("eval_every", self.eval_every, 1)
        checks.at_least("evals_per_chunk", self.evals_per_chunk, 1)
        checks.share("validation", self.validation)
        if self.stop_at is not None or self.keep == "best":
            self.check_chosen()

    def check_chosen(self) -> None:
        """Raises ValueError unless there are rows to choose by."""
        if not self.validation:
            raise ValueError(
                "stop_at and keep='best' choose by validation rows, and there are "
                "none; set the schedule's validation, such as 0.1, and its metric, "
                f"which is '{self.metric}'. A personal model, of which clients keep a "
                "part, has no best by validation rows: use keep='last', without stop_at"
            )

    @property
    def judged(self) -> str:
        """The name of the metric, of validation rows."""
        return f"validation_{self.metric}"

    def check_judged(self, metrics: Collection[str]) -> None:
        """Raises ValueError unless the metric is one of an evaluation's, of which it is
        known which values are good.
        """
        if self.judged not in metrics:
            start = len("validation_")
            known = [k[start:] for k in metrics if k.startswith("validation_")]
            raise ValueError(
                f"schedule.metric '{self.metric}' is none of the evaluation's: "
                f"{', '.join(known)}"
            )
        _ = self.smaller_is_better

    @property
    def smaller_is_better(self) -> bool:
        """Whether the least metric is the best; ValueError where nothing says so."""
        higher = self.higher_is_better
        if higher is None:
            higher = evaluation.says_higher_is_better(self.metric)
        if higher is None:
            raise ValueError(
                f"whether high values of metric '{self.metric}' are good is not known: "
                "set the schedule's higher_is_better to True or False"
            )
        return not higher

    def rank(self, value: Any) -> Array:
        """A float32 that is least for the best value of the metric, and largest for one
        that is not finite; of equal ones the first counts. May be traced.
        """
        wide = jnp.asarray(value, jnp.float32)
        signed = wide if self.smaller_is_better else -wide
        return jnp.where(jnp.isfinite(wide), signed, jnp.inf)


@part
class Layout:
    """How a run lies on devices; changes no result but for rounding."""

    num_lanes: int | None = None
    """Clients trained at once on a device; None chooses by backend and model."""
    num_devices: int | None = None
    """Devices that a round's clients are dealt to; None takes all. Where there are
    twice as many or more, other points of a sweep run beside."""
    shard_data: bool = False
    """Whether a device holds the examples of its own clients only, trains those and
    draws them; otherwise each holds all and they share the work evenly."""

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name in ("num_lanes", "num_devices"):
            if getattr(self, name) is not None:
                checks.at_least(name, getattr(self, name), 1)

    def mesh(self) -> Mesh:
        """The devices of one run."""
        return federated.client_mesh(self.num_devices)

    def owners(self) -> Mesh | None:
        """The devices that own members of the population; None if all hold all."""
        return self.mesh() if self.shard_data else None


class Setup(Protocol):
    """What the engine knows of a run. `parts.Federated` is the stock one; a
    researcher's own is a part of 10 to 15 lines, which inherits from it or not.

    A setup may have a field `partition` too, a part with `deal(train, users) -> owner
    of each row`; without one, users are the clients. So it may have a number
    `held_out`: the share of each client's rows that is never trained. Tables name its
    `model`, a part or a text, and its `pattern`, a text, where it has them.
    """

    @property
    def data(self) -> Any:
        """A part with `load() -> (train, users, test)`."""
        ...

    @property
    def schedule(self) -> Schedule:
        """How long it runs."""
        ...

    @property
    def layout(self) -> Layout:
        """How it lies on devices."""
        ...

    def algorithm(self, facts: Facts) -> base.FederatedAlgorithm:
        """The algorithm; called with numbers, which it checks, and with traced ones."""
        ...

    def evaluate(
        self, state: Any, clients: base.Clients, rows: PyTree
    ) -> dict[str, Array]:
        """Scalars about a state, on rows that are not trained; traced."""
        ...

    def with_noise(self, noise: float) -> Setup:
        """The same with so much noise: the more, the less epsilon.

        Raises:
          ValueError: If it has none; says which part.
        """
        ...

    def predict(self, params: PyTree, rows: PyTree) -> Array:
        """Scores `[n, ...]` of rows."""
        ...


def check_setup(setup: Any) -> None:
    """Raises ValueError unless `setup` is a part with what every setup has."""
    if not is_part(setup):
        shown = setup.__name__ if isinstance(setup, type) else type(setup).__name__
        cure = f"{shown}()" if isinstance(setup, type) else "parts.Federated()"
        raise ValueError(f"setup must be a part, such as {cure}, got {shown}")
    name = type(setup).__name__
    needed = ("data", "schedule", "layout", "algorithm", "evaluate")
    missing = [one for one in needed if not hasattr(setup, one)]
    if missing:
        raise ValueError(
            f"{name} has no {' and no '.join(missing)}, and is no setup; inherit from "
            "parts.Federated, or write what lab.Setup has"
        )
    for field in fields_of(type(setup)):
        if field in OF_A_POINT:
            raise ValueError(
                f"{name}.{field}: seed, delta and target_epsilon are a point's own; "
                "give the field another name"
            )
    for path in paths.numbers(setup):
        if path.split(".")[0] in ON_HOST:
            raise ValueError(
                f"{path} is annotated Traced, and {path.split('.')[0]} is read before "
                "programs run: declare it float"
            )


POINTS = "sweep"
"""The mesh axis along which the points of a sweep are dealt."""


def lab_mesh(num_devices: int | None) -> Mesh:
    """All devices in rows of `num_devices` (all of them if None) for a point's clients;
    devices left over by whole rows are idle.

    Raises:
      ValueError: For fewer than one device in a row, or more than there are.
    """
    row = federated.client_mesh(num_devices)
    there = target.devices()
    num_rows = len(there) // row.size
    devices = np.array(there[: num_rows * row.size])
    return Mesh(
        devices.reshape(num_rows, row.size),
        (POINTS, *row.axis_names),
        axis_types=(AxisType.Auto,) * 2,
    )


def num_rows(mesh: Mesh) -> int:
    """How many points run at once, each on its own devices."""
    return mesh.shape[POINTS]


def by_point(mesh: Mesh) -> NamedSharding:
    """The sharding of what has a leading axis of points."""
    return NamedSharding(mesh, PartitionSpec(POINTS))


def over_points(
    function: Callable[..., PyTree], num_stacked: int, mesh: Mesh
) -> Callable[..., PyTree]:
    """The same function, with each row of devices working on its own points.

    Args:
      function: Takes `num_stacked` arguments with leaves `[points, ...]`, then others;
        returns leaves `[points, ...]`.
      num_stacked: How many.
      mesh: From `lab_mesh`; points come in multiples of its rows.
    """

    @functools.wraps(function)
    def run(*arguments: PyTree) -> PyTree:
        stacked = (PartitionSpec(POINTS),) * num_stacked
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(*stacked, *federated.specs(arguments[num_stacked:])),
            out_specs=PartitionSpec(POINTS),
            # Devices of a row compute the same: nothing is left to check.
            check_vma=False,
        )(*arguments)

    return run
