"""Accelerators' memory, as their makers state it: what fits a chip that is not here.

The one that is here says its own (`memory.bytes_free`). Makers' gigabytes of GPUs are
10^9 bytes, of TPUs 2^30; jax keeps a quarter of a GPU's free unless
XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

_GPU_SHARE = 0.75


class Chip(NamedTuple):
    """A kind of accelerator."""

    name: str
    """As people call it."""
    kind: str
    """What jax's `device_kind` says."""
    memory_bytes: int
    """Of one chip."""
    source: str
    """Who says so."""

    @property
    def usable_bytes(self) -> int:
        """What programs get of it by default."""
        is_gpu = not self.kind.startswith("TPU")
        return int(self.memory_bytes * _GPU_SHARE) if is_gpu else self.memory_bytes


_NVIDIA, _GOOGLE = "NVIDIA's data sheet of the {}", "Google Cloud's page on {}"


def _gpu(name: str, kind: str, gigabytes: int) -> Chip:
    return Chip(name, kind, gigabytes * 10**9, _NVIDIA.format(name))


def _tpu(name: str, kind: str, gibibytes: int) -> Chip:
    return Chip(name, kind, gibibytes * 2**30, _GOOGLE.format(f"TPU {name}"))


CHIPS = (
    _gpu("T4", "Tesla T4", 16),
    _gpu("L4", "NVIDIA L4", 24),
    _gpu("A100 40GB", "NVIDIA A100-SXM4-40GB", 40),
    _gpu("A100 80GB", "NVIDIA A100-SXM4-80GB", 80),
    _gpu("H100", "NVIDIA H100 80GB HBM3", 80),
    _gpu("H200", "NVIDIA H200", 141),
    _tpu("v4", "TPU v4", 32),
    _tpu("v5e", "TPU v5 lite", 16),
    _tpu("v5p", "TPU v5", 95),
    _tpu("v6e", "TPU v6 lite", 32),
)


def of_kind(kind: str) -> Chip | None:
    """The chip of a `device_kind`; None where it is in no table."""
    return next((chip for chip in CHIPS if chip.kind == kind), None)
