"""The protocol of setups, and the parts and facts that all setups share.

A setup is a part (`lab.part`) whose class has the attributes and methods of `Setup`.
Its structure decides what compiles, its numbers may change in a sweep without compiling
again, and a number's key path, such as "trainer.optimizer.learning_rate", is its name
everywhere.
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
"""The names that a sweep may set and that are no fields of a setup."""

ON_HOST = ("data", "partition", "schedule", "layout")
"""The fields of a setup that are read on the host and hold no traced number."""


class Facts(NamedTuple):
    """Facts about the data that algorithms need when they are built."""

    num_clients: int
    """Number of clients."""
    num_examples: int
    """Number of examples that are trained."""
    max_client_size: int
    """The largest number of examples that one client trains on."""
    example: PyTree
    """Shapes and types of one example (`jax.ShapeDtypeStruct`)."""
    num_classes: int | None = None
    """Number of labels; None where the data do not say."""
    delta: float | None = None
    """The delta at which epsilon is stated; only live epsilon reads it."""
    digests: data.Digests | None = None
    """Digests of the train examples; None for facts without data, which train
    nothing."""
    judged_by: str | None = None
    """Digest of the test and validation rows, and of the rows that clients hold out; no
    key depends on it. None for facts without data."""
    num_held_out: int = 0
    """Number of rows that clients hold out to judge their own models."""
    people: data.People | None = None
    """The people whose examples these are; None where they are not known."""


@part
class Schedule:
    """The length of a run, its evaluations, and the metric that judges it."""

    num_rounds: int = 50
    """Number of training rounds."""
    eval_every: int = 10
    """Rounds between evaluations."""
    evals_per_chunk: int = 1
    """Evaluations in a chunk, between two visits to the host; a killed run loses at
    most one chunk."""
    validation: float = 0.0
    """Share of the train rows (or of the users, where there are users) that is held out
    for validation. Stopping and choosing look at these rows only. No privacy is
    promised for them."""
    metric: str = "accuracy"
    """The metric that stopping and choosing look at, such as "loss" for
    `validation_loss`."""
    higher_is_better: bool | None = None
    """True if higher values of the metric are better; None where its name says so, such
    as "accuracy" and "loss"."""
    stop_at: float | None = None
    """The value of the metric that ends a run, after the chunk that reached it."""
    keep: Literal["last", "best"] = "last"
    """The evaluation that is a run's result: the last, or the best by the metric. The
    argument `keep` of `run_sweep` says in the same words which parameters are kept."""

    def __post_init__(self) -> None:
        """Checks the numbers."""
        checks.at_least("num_rounds", self.num_rounds, 1)
        checks.at_least("eval_every", self.eval_every, 1)
        checks.at_least("evals_per_chunk", self.evals_per_chunk, 1)
        checks.share("validation", self.validation)
        if self.stop_at is not None or self.keep == "best":
            self.check_chosen()

    def check_chosen(self) -> None:
        """Raises ValueError if no validation rows are held out to choose by."""
        if not self.validation:
            raise ValueError(
                "stop_at and keep='best' choose by validation rows, but there are "
                "none; set the schedule's validation, such as 0.1, and its metric, now "
                f"'{self.metric}'; for a personal model (clients keep a part), use "
                "keep='last' without stop_at"
            )

    @property
    def judged(self) -> str:
        """The name of the metric on validation rows."""
        return f"validation_{self.metric}"

    def check_judged(self, metrics: Collection[str]) -> None:
        """Raises ValueError unless the evaluation has the metric, and it is known
        whether high or low values are good.

        Args:
          metrics: The names of an evaluation's metrics.
        """
        if self.judged not in metrics:
            start = len("validation_")
            known = [k[start:] for k in metrics if k.startswith("validation_")]
            raise ValueError(
                f"schedule.metric '{self.metric}' is not a metric of the evaluation, "
                f"which has: {', '.join(known)}"
            )
        _ = self.smaller_is_better

    @property
    def smaller_is_better(self) -> bool:
        """True where the least value of the metric is the best.

        Raises:
          ValueError: If neither the schedule nor the metric's name says so.
        """
        higher = self.higher_is_better
        if higher is None:
            higher = evaluation.says_higher_is_better(self.metric)
        if higher is None:
            raise ValueError(
                f"metric '{self.metric}' has no known direction; set the schedule's "
                "higher_is_better to True or False"
            )
        return not higher

    def rank(self, value: Any) -> Array:
        """Returns a float32 that is least for the best value of the metric, and
        infinite for a value that is not finite.

        The first of equal values counts. `value` may be traced.
        """
        wide = jnp.asarray(value, jnp.float32)
        signed = wide if self.smaller_is_better else -wide
        return jnp.where(jnp.isfinite(wide), signed, jnp.inf)


@part
class Layout:
    """The layout of a run on devices, which changes results by rounding only."""

    num_lanes: int | None = None
    """Number of clients that a device trains at once; None chooses by backend and
    model."""
    num_devices: int | None = None
    """Number of devices that share a round's clients; None takes all devices. Where
    there are at least twice as many devices, several points of a sweep run at once."""
    shard_data: bool = False
    """If true, a device holds, draws and trains its own clients only; otherwise every
    device holds all examples, and the devices share the work evenly."""

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name in ("num_lanes", "num_devices"):
            if getattr(self, name) is not None:
                checks.at_least(name, getattr(self, name), 1)

    def mesh(self) -> Mesh:
        """Returns the mesh of the devices of one run."""
        return federated.client_mesh(self.num_devices)

    def owners(self) -> Mesh | None:
        """Returns the devices that own members of the population; None if every device
        holds all examples.
        """
        return self.mesh() if self.shard_data else None


class Setup(Protocol):
    """The protocol that the engine needs of a run.

    `parts.Federated` is the stock setup; a researcher's own is a part of 10 to 15
    lines, which may inherit from it. Three further fields are optional: a `partition`,
    a part with `deal(train, users) -> owner of each row` (without it, users are the
    clients); a number `held_out`, the share of each client's rows that is never
    trained; and `model`, a part or a text, and `pattern`, a text, which tables show.
    """

    @property
    def data(self) -> Any:
        """A part with `load() -> (train, users, test)`."""
        ...

    @property
    def schedule(self) -> Schedule:
        """The run's length and evaluations."""
        ...

    @property
    def layout(self) -> Layout:
        """The run's layout on devices."""
        ...

    def algorithm(self, facts: Facts) -> base.FederatedAlgorithm:
        """Builds the algorithm; numbers are concrete, and then checked, or traced."""
        ...

    def evaluate(
        self, state: Any, clients: base.Clients, rows: PyTree
    ) -> dict[str, Array]:
        """Returns scalars about a state, on rows that are not trained; traced."""
        ...

    def with_noise(self, noise: float) -> Setup:
        """Returns a copy with this noise; more noise gives less epsilon.

        Raises:
          ValueError: If the setup has no noise to set; says which part.
        """
        ...

    def predict(self, params: PyTree, rows: PyTree) -> Array:
        """Returns scores `[n, ...]` of rows."""
        ...


def check_setup(setup: Any) -> None:
    """Raises ValueError unless `setup` is a part with the fields of every setup."""
    if not is_part(setup):
        shown = setup.__name__ if isinstance(setup, type) else type(setup).__name__
        cure = f"{shown}()" if isinstance(setup, type) else "parts.Federated()"
        raise ValueError(f"setup must be a part, such as {cure}, got {shown}")
    name = type(setup).__name__
    needed = ("data", "schedule", "layout", "algorithm", "evaluate")
    missing = [one for one in needed if not hasattr(setup, one)]
    if missing:
        raise ValueError(
            f"{name} is not a setup, as it has no {' and no '.join(missing)}; inherit "
            "from parts.Federated, or define what lab.Setup lists"
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
                f"{path} is annotated Traced, but {path.split('.')[0]} is read before "
                f"programs run; declare {path} as float"
            )


POINTS = "sweep"
"""The mesh axis along which the points of a sweep are dealt."""


def lab_mesh(num_devices: int | None) -> Mesh:
    """Returns a mesh of devices in rows: each row trains one point's clients.

    Devices that do not fill a row are idle.

    Args:
      num_devices: Devices in a row; None for all.

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
    """Returns the number of points that run at once, each on its own devices."""
    return mesh.shape[POINTS]


def by_point(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays with a leading axis of points."""
    return NamedSharding(mesh, PartitionSpec(POINTS))


def over_points(
    function: Callable[..., PyTree], num_stacked: int, mesh: Mesh
) -> Callable[..., PyTree]:
    """Returns the function with its points dealt to the rows of devices.

    Args:
      function: Takes `num_stacked` arguments with leaves `[points, ...]`, then others;
        returns leaves `[points, ...]`.
      num_stacked: Number of arguments with a leading axis of points.
      mesh: From `lab_mesh`; the number of points is a multiple of its rows.
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
