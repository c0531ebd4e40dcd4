"""Progress of a run for a person who watches, and an interrupt that loses nothing."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


def is_watched() -> bool:
    """True at a terminal or in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return sys.stderr.isatty() or hasattr(shell, "kernel")


def progress_line(done: int, total: int) -> None:
    """Writes the number of rounds done to standard error, as one line that is
    overwritten, at a terminal or in a notebook; elsewhere writes nothing.
    """
    if not is_watched():
        return
    end = "\n" if done >= total else ""
    print(f"\rround {done} of {total}", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether an interrupt (Ctrl-C) came inside the block.

    The first interrupt is only noted, so that the current work can finish; the second
    raises KeyboardInterrupt. In a thread other than the main one nothing changes.
    """
    noted: list[Any] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler and not callable(before):
        # Someone ignores interrupts, or handles them outside of Python.
        yield lambda: False
        return

    def note(number: int, frame: Any) -> None:
        if noted:
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt
        noted.append(number)
        print(
            "\nstopping after these rounds; press Ctrl-C again to stop now",
            file=sys.stderr,
        )

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)
