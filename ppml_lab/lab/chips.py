"""The memory of accelerators, as their makers state it, to estimate what fits a chip
that is not here.

A chip that is here states its own memory (`memory.bytes_free`). A gigabyte is 10^9
bytes for makers of GPUs, and 2^30 bytes for TPUs; jax leaves a quarter of a GPU's
memory free unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

_GPU_SHARE = 0.75


class Chip(NamedTuple):
    """A kind of accelerator."""

    name: str
    """The usual name."""
    kind: str
    """The `device_kind` in jax."""
    memory_bytes: int
    """Memory of one chip."""
    source: str
    """The source of the number."""

    @property
    def usable_bytes(self) -> int:
        """The bytes that programs get by default."""
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
    """Returns the chip of a `device_kind`; None if it is not in the table."""
    return next((chip for chip in CHIPS if chip.kind == kind), None)
