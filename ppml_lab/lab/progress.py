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

from ppml_lab.federated.watching import is_watched

Report = Callable[[int, str], None]
"""Callback `(units done since the last call, what is running)`, or `(0, message)`."""


class Restored(int):
    """Units that an earlier call did: a report of these says nothing about speed."""


def _is_message(more: int) -> bool:
    return more == 0 and not isinstance(more, Restored)


class _Count:
    """Units done, and from those done now the time that the others will take."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self._restored = total, 0, 0
        self._begin = time.monotonic()

    def left_after(self, more: int) -> str:
        """Counts more units, and returns the time left in words, "" if not known."""
        self.done += more
        self._restored += more if isinstance(more, Restored) else 0
        now = self.done - self._restored
        if now <= 0 or self.done >= self.total:
            return ""
        each = (time.monotonic() - self._begin) / now
        return f", about {(self.total - self.done) * each:.0f} s left"


def progress_line(more: int, text: str) -> None:
    """Stands for a line that a sweep overwrites on standard error, at a terminal or in
    a notebook, with the rounds done, all rounds and the time left; elsewhere nothing.
    """


def line_of(total: int) -> Report:
    """The report that `progress_line` stands for, of a sweep of `total` rounds."""
    if not is_watched():
        return progress_line
    count = _Count(total)

    def report(more: int, text: str) -> None:
        if _is_message(more):
            print(f"\r{text:79}", file=sys.stderr, flush=True)
            return
        left = count.left_after(more)
        end = "\n" if count.done >= total else ""
        line = f"{count.done}/{total} rounds{left}: {text}"
        print(f"\r{line[:79]:79}", end=end, file=sys.stderr, flush=True)

    return report


@contextmanager
def progress(
    total: int, unit: str, *, seconds_between_lines: float = 10.0
) -> Iterator[Report]:
    """Reports progress towards `total` units while the block runs.

    On a terminal it shows a bar with the time left; elsewhere it prints a line from
    time to time, so that log files stay short.
    """
    count = _Count(total)
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

            def show(more: int, text: str) -> None:
                if _is_message(more):
                    bar.console.print(text, highlight=False)
                    return
                left = count.left_after(more)
                bar.update(task, advance=more, description=text, left=left)

            yield show
        return

    last = float("-inf")

    def report(more: int, text: str) -> None:
        nonlocal last
        if _is_message(more):
            print(text, flush=True)
            return
        left, now = count.left_after(more), time.monotonic()
        if now - last < seconds_between_lines and count.done < total:
            return
        last = now
        print(f"{count.done}/{total} {unit}{left}: {text}", flush=True)

    yield report
