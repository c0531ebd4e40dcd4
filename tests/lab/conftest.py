"""What tests of sweeps share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import lab


class StoppedError(Exception):
    """Raised in the middle of a sweep, by its report."""


@pytest.fixture
def stop_sweep() -> Callable[..., None]:
    """Runs a sweep until it has done more than so many rounds; a checkpoint a chunk."""

    def run(
        points: Sequence[lab.Point], folder: Path, *, rounds: int, **options: Any
    ) -> None:
        left = [rounds]

        def report(done: int, text: str) -> None:
            left[0] -= done
            if left[0] < 0:
                raise StoppedError

        with pytest.raises(StoppedError):
            lab.run_sweep(
                points, folder, report=report, checkpoint_seconds=0, **options
            )

    return run
