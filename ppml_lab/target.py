"""The devices that programs are compiled for: by default those that are here.

How a program computes depends on its platform: how many clients train side by side,
what multiplies integers, how convolutions of many kernels are written. Code that
chooses by platform asks here, so that a program can be compiled for a chip that is not
here (`jax.experimental.topologies`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import jax

_OTHERS: ContextVar[tuple[jax.Device, ...]] = ContextVar("others", default=())


def devices() -> list[jax.Device]:
    """The devices that programs are compiled for."""
    return [*_OTHERS.get()] or jax.devices()


def platform() -> str:
    """The platform of these devices: "cpu", "gpu" or "tpu"."""
    others = _OTHERS.get()
    return others[0].platform if others else jax.default_backend()


@contextlib.contextmanager
def made_for(others: Sequence[jax.Device]) -> Iterator[None]:
    """Compiles what is traced inside the block for these devices, which need not be
    here.

    Caches are cleared on entry and exit: jax would take a program of one platform for
    another's.

    Raises:
      ValueError: If `others` is empty.
    """
    if not others:
        raise ValueError("others must hold a device, got none")
    jax.clear_caches()
    token = _OTHERS.set(tuple(others))
    try:
        yield
    finally:
        _OTHERS.reset(token)
        jax.clear_caches()
