"""Claims: which process makes which runs of a results folder.

A claim is a lock on one byte of `<folder>/.claims`, at a place that the run's id says.
The system drops a process's locks when it ends, however it ends, so that no claim is
left behind. A folder on a network needs a file system with POSIX locks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Claims:
    """The claims of a process in one results folder.

    A process may open a folder's claims once at a time: closing them, the system drops
    all that it has on the file.
    """

    def __init__(self, descriptor: int) -> None:
        """Claims by locks on an open file."""
        self._descriptor = descriptor

    def take(self, name: str) -> bool:
        """Claims a run or slice, by its id of hexadecimal digits; False if another
        process has it.
        """
        try:
            self._lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, names: Iterable[str]) -> None:
        """Gives claims back."""
        for name in names:
            self._lock(name, fcntl.LOCK_UN)

    def _lock(self, name: str, what: int) -> None:
        # 60 bits: places of files are signed and have 64.
        fcntl.lockf(self._descriptor, what, 1, int(name[:15], 16))


@contextmanager
def open_claims(folder: Path) -> Iterator[Claims]:
    """The claims of this process in a folder; dropped at the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".claims", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield Claims(descriptor)
    finally:
        os.close(descriptor)
