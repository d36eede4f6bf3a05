"""Numbered batches that arrive in any order, or not at all, are given out in order, each once.

A batch that its data worker has lost is prepared in this process, so that neither a worker that dies nor one that is
slow changes what an epoch shows. This is the backup task of MapReduce (Dean and Ghemawat, 2004).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tfdist.errors import DataError

_POLL_S = 0.2


class _End:
    """What comes after the last batch."""


@dataclass(frozen=True)
class Limits:
    """How long, and for how much, an epoch waits.

    Attributes:
        patience_s: Seconds without an arrival after which the next batch is prepared here.
        silence_s: Seconds without an arrival after which the epoch ends with an error.
        ahead: Batches that may wait for an earlier one before that one is prepared here.
    """

    patience_s: float = 10.0
    silence_s: float = 60.0
    ahead: int = 32


class Arrivals:
    """Reads numbered batches in a thread, since a read of a lost worker never ends.

    Args:
        batches: Pairs of a number and a batch.
        count: How many there are. When all have come, the end is not waited for: the service tells it a second later.
    """

    def __init__(self, batches: Iterable[tuple[int, Any]], count: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=4)
        self._closed = threading.Event()
        threading.Thread(target=self._read, args=(batches, count), daemon=True).start()

    def get(self, wait_s: float) -> Any:
        """Returns a pair of a number and a batch, `_End`, or an exception.

        Raises:
            queue.Empty: Nothing has arrived within `wait_s` seconds.
        """
        return self._queue.get(timeout=wait_s) if wait_s > 0 else self._queue.get_nowait()

    def close(self) -> None:
        """Ends the thread; one whose read never ends is left behind."""
        self._closed.set()

    def _read(self, batches: Iterable[tuple[int, Any]], count: int) -> None:
        seen: set[int] = set()
        try:
            for number, batch in batches:
                if not self._put((number, batch)):
                    return
                seen.add(number)
                if len(seen) == count:
                    return
            self._put(_End())
        except Exception as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False


@dataclass
class InOrder:
    """Gives out the batches of an epoch in order, each once.

    Attributes:
        arrivals: Where the batches come from.
        count: Batches of the epoch.
        prepare_here: Returns the batch of a number, prepared in this process.
        limits: How long to wait.
        silent: Returns the error to raise when nothing has arrived for so many seconds.
        made_here: Numbers of the batches that were prepared here.
    """

    arrivals: Arrivals
    count: int
    prepare_here: Callable[[int], Any]
    limits: Limits
    silent: Callable[[float], DataError]
    made_here: list[int] = field(default_factory=list)
    _held: dict[int, Any] = field(default_factory=dict)
    _ended: bool = False
    _quiet_since: float | None = None

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.count):
            while number not in self._held and self._may_still_come(number):
                pass
            if number in self._held:
                yield self._held.pop(number)
            else:
                self.made_here.append(number)
                yield self.prepare_here(number)

    def _may_still_come(self, number: int) -> bool:
        """Takes one arrival; returns whether batch `number` is worth waiting for."""
        if self._ended or len(self._held) >= self.limits.ahead:
            return False
        try:
            arrived = self.arrivals.get(self.limits.patience_s if self._quiet_since is None else 0)
        except queue.Empty:
            return self._note_silence()
        self._quiet_since = None
        if isinstance(arrived, Exception):
            raise arrived
        if isinstance(arrived, _End):
            self._ended = True
            return False
        if arrived[0] >= number:  # an earlier one was prepared here meanwhile
            self._held[arrived[0]] = arrived[1]
        return True

    def _note_silence(self) -> bool:
        now = time.monotonic()
        if self._quiet_since is None:
            self._quiet_since = now - self.limits.patience_s
        if now - self._quiet_since > self.limits.silence_s:
            raise self.silent(now - self._quiet_since)
        return False
