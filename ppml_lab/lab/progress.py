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
)

Report = Callable[[int, str], None]
"""Callback `(units done since the last call, what is running)`."""


class Restored(int):
    """Units that an earlier call did: a report of these says nothing about speed."""


@contextmanager
def progress(
    total: int, unit: str, *, seconds_between_lines: float = 10.0
) -> Iterator[Report]:
    """Reports progress towards `total` units while the block runs.

    On a terminal it shows a bar with the time left; elsewhere it prints a line from
    time to time, so that log files stay short.
    """
    begin, done, restored = time.monotonic(), 0, 0

    def left(more: int) -> str:
        """Counts more units, and returns the time left in words, "" if not known."""
        nonlocal done, restored
        done += more
        restored += more if isinstance(more, Restored) else 0
        if done == restored or done >= total:
            return ""
        each = (time.monotonic() - begin) / (done - restored)
        return f", about {(total - done) * each:.0f} s left"

    console = Console(file=sys.stdout)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}{{task.fields[left]}}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=total, left="")
            yield lambda more, text: bar.update(
                task, advance=more, description=text, left=left(more)
            )
        return

    last = float("-inf")

    def report(more: int, text: str) -> None:
        nonlocal last
        time_left, now = left(more), time.monotonic()
        if now - last < seconds_between_lines and done < total:
            return
        last = now
        print(f"{done}/{total} {unit}{time_left}: {text}", flush=True)

    yield report
