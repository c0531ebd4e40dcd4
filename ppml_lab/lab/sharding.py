"""How a sweep lies on the devices: a mesh of the axes "sweep" and "clients".

Every point of a sweep has a row of devices, along "clients", to which its rounds deal
their clients; rows take points of their own. So the same compiled round serves one
device and many, and only sums cross devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ppml_lab import federated

POINTS = "sweep"
"""The mesh axis along which the points of a sweep are dealt."""


def lab_mesh(num_devices: int | None) -> Mesh:
    """All devices in rows of `num_devices` (all of them if None) for a point's clients;
    devices left over by whole rows are idle.

    Raises:
      ValueError: For fewer than one device in a row, or more than there are.
    """
    row = federated.client_mesh(num_devices)
    num_rows = len(jax.devices()) // row.size
    devices = np.array(jax.devices()[: num_rows * row.size])
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
