"""The devices that programs are made for: those that are here, unless others are said.

How a program computes depends on its platform: how many clients train side by side,
what multiplies integers, how convolutions of many kernels are written. All that choose
ask here, so that a program can be compiled for a chip that is not here
(`jax.experimental.topologies`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import jax

_OTHERS: ContextVar[tuple[jax.Device, ...]] = ContextVar("others", default=())


def devices() -> list[jax.Device]:
    """The devices on which programs lie."""
    return [*_OTHERS.get()] or jax.devices()


def platform() -> str:
    """What they are: "cpu", "gpu" or "tpu"."""
    others = _OTHERS.get()
    return others[0].platform if others else jax.default_backend()


@contextlib.contextmanager
def made_for(others: Sequence[jax.Device]) -> Iterator[None]:
    """Within it, what is traced is made for these devices, which need not be here.

    What was traced before is forgotten, within and after it: jax would take a program
    of one platform for another's.

    Raises:
      ValueError: For no device.
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
