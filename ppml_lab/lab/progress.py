"""Progress of a sweep: a bar with the time left on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[int, str], None]
"""Callback `(units done since the last call, what is running)`."""


@contextmanager
def progress(
    total: int, unit: str, *, seconds_between_lines: float = 10.0
) -> Iterator[Report]:
    """Reports progress towards `total` units while the block runs.

    On a terminal it shows a bar with the time left; elsewhere it prints a line from
    time to time, so that log files stay short.
    """
    console = Console(file=sys.stdout)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=total)
            yield lambda done, text: bar.update(task, advance=done, description=text)
        return

    state = {"done": 0, "start": time.monotonic(), "last": float("-inf")}

    def report(done: int, text: str) -> None:
        state["done"] += done
        now = time.monotonic()
        finished = state["done"] >= total
        if now - state["last"] < seconds_between_lines and not finished:
            return
        state["last"] = now
        left = (now - state["start"]) * (total / max(state["done"], 1) - 1)
        eta = f", about {left:.0f} s left" if 0 < state["done"] < total else ""
        print(f"{state['done']}/{total} {unit}{eta}: {text}", flush=True)

    yield report
