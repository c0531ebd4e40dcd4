"""Stops a sweep after a chunk, with all work saved: at SIGTERM, which schedulers send
when the time is over, or after a time that the user gives.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ppml_lab import arguments

EXIT_CODE = 75
"""Exit code of a stopped command: EX_TEMPFAIL of sysexits, as it may be tried again."""


class StoppedError(Exception):
    """A sweep stopped after a chunk on request; the same command or call continues
    it.
    """


@arguments.checked
def seconds_of(text: str) -> float:
    """Returns the seconds of a time such as "3h", "90m", "1h30m" or "45s".

    Raises:
      ValueError: For another text.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or found is None:
        raise ValueError(
            f"a stop time must be written like 3h, 90m, 1h30m or 45s, got '{text}'"
        )
    hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds


@contextlib.contextmanager
def asked(after: float | None = None) -> Iterator[Callable[[], str]]:
    """Yields a function that returns the reason to stop, "" until there is a reason.

    Args:
      after: Seconds from now on; None for no limit.

    Yields:
      A function for `run_sweep(..., stop=)`. In the main thread, SIGTERM is a reason to
      stop until the block ends, and does not end the process.
    """
    begin, signals = time.monotonic(), list[int]()

    def note(number: int, frame: Any) -> None:
        signals.append(number)

    def why() -> str:
        if signals:
            return "SIGTERM"
        late = after is not None and time.monotonic() - begin >= after
        return "time limit reached" if late else ""

    if threading.current_thread() is not threading.main_thread():
        yield why
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield why
    finally:
        signal.signal(signal.SIGTERM, before)
