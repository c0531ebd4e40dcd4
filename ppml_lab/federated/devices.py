"""Devices that share a round's clients."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ppml_lab import arguments, checks, target
from ppml_lab.data import storage

AXIS = "clients"
"""The mesh axis along which clients are dealt."""


def use_all_cores() -> None:
    """Makes every CPU core a device; call it before jax computes anything.

    XLA works on one core at a time for the small steps of federated clients, so several
    devices are several times as fast as several threads. Nothing happens if the user
    has chosen a number of devices already (`jax_num_cpu_devices` or XLA_FLAGS).
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and jax.config.values["jax_num_cpu_devices"] < 1:
        jax.config.update("jax_num_cpu_devices", num_cores())


def num_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@arguments.checked
def client_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of the first `num_devices` devices (all by default) along "clients".

    Raises:
      ValueError: For fewer than one device, or more than there are.
    """
    devices = target.devices()
    num_devices = len(devices) if num_devices is None else num_devices
    checks.at_least("num_devices", num_devices, 1)
    if num_devices > len(devices):
        raise ValueError(
            f"num_devices {num_devices} is more than the {len(devices)} devices of "
            "this machine; on CPU, call use_all_cores() or set jax_num_cpu_devices "
            "before jax starts"
        )
    # An Auto axis: jax places what is computed outside of the shared part.
    return jax.make_mesh(
        (num_devices,), (AXIS,), axis_types=(AxisType.Auto,),
        devices=devices[:num_devices],
    )  # fmt: skip


def check_mesh(mesh: Mesh | None) -> None:
    """Raises ValueError unless clients (or examples) can be dealt along the mesh."""
    if mesh is not None and AXIS not in mesh.shape:
        raise ValueError(
            f"mesh has axes {tuple(mesh.shape)}, but cohorts are dealt along '{AXIS}'; "
            f"name an axis '{AXIS}'"
        )


@arguments.checked
def on_every_device(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device of the mesh holds whole."""
    return NamedSharding(mesh, PartitionSpec())


@arguments.checked
def sharded_by_client(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose leading axis has one block per device."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


@arguments.checked
def specs(arguments: PyTree) -> PyTree:
    """The specs of `shard_map` for arguments along "clients": examples stored by shard
    go in blocks, all else goes whole.
    """

    def by_shard(part: Any) -> bool:
        return isinstance(part, storage.ByShard)

    blocks = storage.ByShard._make([PartitionSpec(AXIS), PartitionSpec()])
    return jax.tree.map(
        lambda part: blocks if by_shard(part) else PartitionSpec(),
        arguments,
        is_leaf=by_shard,
    )


def sum_over_devices(
    function: Callable[..., PyTree], mesh: Mesh | None, *arguments: Any
) -> PyTree:
    """The sum over devices of `function(device, num_devices, *arguments)`.

    `device` counts from 0. Every device gets all arguments whole, except that of
    examples stored by shard it gets its own. Without a mesh there is one device.
    """
    return over_devices(function, add_up, mesh, *arguments)


def over_devices(
    function: Callable[..., PyTree],
    join: Callable[[PyTree], PyTree],
    mesh: Mesh | None,
    *arguments: Any,
) -> PyTree:
    """Runs `function` on all devices as `sum_over_devices` does, and joins their
    results by `join`, which is made of `add_up` and `gather`. A single device's result
    is not joined.

    Inside a `shard_map` along "clients" the devices are apart already and stay so.
    """
    num_devices = 1 if mesh is None else mesh.shape[AXIS]
    if num_devices == 1:
        return function(jnp.int32(0), 1, *arguments)

    def part(*mine: Any) -> PyTree:
        return join(function(jax.lax.axis_index(AXIS), num_devices, *mine))

    if AXIS in jax.sharding.get_abstract_mesh().manual_axes:
        return part(*arguments)
    # Outputs are equal on all devices: nothing is left to check.
    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=specs(arguments),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(*arguments)


def add_up(mine: PyTree) -> PyTree:
    """The sum of all devices' values."""
    total = jax.lax.psum(mine, AXIS)
    # Sums of truth values are integers.
    return jax.tree.map(lambda sum_, one: sum_.astype(one.dtype), total, mine)


def gather(mine: PyTree) -> PyTree:
    """All devices' values, stacked along a leading axis."""
    return jax.lax.all_gather(mine, AXIS)
