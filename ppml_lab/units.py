"""Numbers as people read them."""

from __future__ import annotations

import math


def shown(count: float) -> str:
    """Formats a number of bytes in the largest unit of which there is at least one."""
    if math.isinf(count):
        return "more than the compiler finds room for"
    for unit, bytes_each in {"GiB": 2**30, "MiB": 2**20}.items():
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"
