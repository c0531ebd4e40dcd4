"""Targets of compilation: chips that need not be here.

A target is "h200", the path of another GPU's description (a GpuTargetConfigProto as
text), or a TPU topology by libtpu's name, such as "v5e:2x2".
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental import topologies

H200 = Path(__file__).with_name("h200.txtpb")
CURE = "pip install 'ppml_lab[aot]'"
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Without these XLA divides by zero, or silently compiles another program.
NEEDED = (
    "threads_per_block_limit",
    "threads_per_warp",
    "shared_memory_per_block",
    "shared_memory_per_core",
    "threads_per_core_limit",
    "core_count",
    "fpus_per_core",
    "block_dim_limit_x",
    "block_dim_limit_y",
    "block_dim_limit_z",
    "memory_bandwidth",
    "l2_cache_size",
    "clock_rate_ghz",
    "device_memory_size",
    "shared_memory_per_block_optin",
    "cuda_compute_capability",
    "registers_per_core_limit",
    "registers_per_block_limit",
    "platform_name",
    "device_description_str",
)


class Target(NamedTuple):
    """Devices that programs are compiled for, with options of the compiler."""

    devices: list[jax.Device]
    options: Mapping[str, str]
    """The compiler's options."""


def target_of(name: str) -> Target:
    """The devices of a target.

    Raises:
      ValueError: If its wheels are not installed or do not know it, or its description
        lacks something; says what.
    """
    if re.fullmatch(r"v\d+\w*:[\dx]+\w*", name):
        return _tpu(name)
    path = H200 if name == "h200" else Path(name)
    if not path.is_file():
        raise ValueError(
            f"target '{name}' must be a TPU topology, such as 'v5e:2x2', a file that "
            "describes a GPU, or 'h200'"
        )
    return _gpu(path)


def _tpu(name: str) -> Target:
    _need("libtpu", name)
    # libtpu would ask a Google server for what the topology says; there is one process.
    for variable, value in _LIBTPU.items():
        os.environ.setdefault(variable, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"target '{name}': libtpu says {error}") from error
    return Target([*found.devices], {})


def _gpu(path: Path) -> Target:
    text = path.read_text()
    if lacking := missing(text):
        raise ValueError(
            f"{path.name} describes a GPU without {', '.join(lacking)}, so that XLA "
            "would compile for another chip; add these fields from the device's own "
            "description"
        )
    _need("jax_plugins.xla_cuda13", path.name)
    try:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name=path.stem,
            topology="1x1x1",
            target_config=text,
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"{path.name} does not describe a GPU: {error}") from error
    # Autotuning would run kernels.
    return Target([*found.devices], {"xla_gpu_autotune_level": "0"})


def missing(text: str) -> list[str]:
    """The fields that a GPU's description lacks."""
    said = {*re.findall(r"^\s*(\w+)\s*[:{]", text, re.M)}
    return [one for one in NEEDED if one not in said]


def _need(module: str, name: str) -> None:
    try:
        there = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        there = None
    if there is None:
        raise ValueError(
            f"target '{name}' needs {module}, which is not installed; {CURE}, in a "
            "separate environment, as jax looks for the devices of installed wheels"
        )
