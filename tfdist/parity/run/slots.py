"""Limits the number of busy processes, over several programs: a process that works holds a slot."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class Slots:
    """`count` slots, each a locked file; a process that ends gives its slots back."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._queue, self._slots = folder / "queue", [folder / str(index) for index in range(count)]

    @contextlib.contextmanager
    def hold(self, wanted: int) -> Iterator[None]:
        """Waits for `wanted` slots, or for all if that is more than there are, and holds them while open.

        The process that waits has the head of the queue, so that one that wants all slots is not overtaken for ever.
        """
        with contextlib.ExitStack() as held:
            if wanted:
                with exclusive(self._queue):
                    self._take(min(wanted, len(self._slots)), held)
            yield

    def _take(self, wanted: int, held: contextlib.ExitStack) -> None:
        free = list(self._slots)
        while wanted:
            for slot in list(free):
                if wanted and (lock := _try_lock(slot)) is not None:
                    held.callback(lock.close)
                    free.remove(slot)
                    wanted -= 1
            if wanted:
                time.sleep(0.05)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits until no other process or thread is in this block with the same path."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_lock(path: Path) -> IO[str] | None:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
