"""A contestant's side of taking turns: it trains some steps when it is told to, tells their times, and waits.

One JSON object a line: `{"go": 20}` or `{"go": 0}` (end) on standard input; `{"ready": ...}`, `{"steps": [...]}` and
`{"done": ...}` on standard output. Standard library only, so that contestants without TensorFlow can use it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


class Ended(Exception):
    """There are no more turns; a contestant's training loop is left by it."""


class Turns:
    """Waits for turns, and measures the steps in them.

    Attributes:
        info: What is told when this contestant is ready, such as versions.
    """

    def __init__(self) -> None:
        # Libraries print to standard output; the lines of the protocol go to a copy of it that they do not know.
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._left = 0
        self._steps: list[list[float]] = []
        self._marks = (0.0, 0.0)
        self._told_ready = False
        self.info: dict[str, Any] = {}

    def begin_step(self) -> None:
        """Waits until it is this contestant's turn.

        Raises:
            Ended: There are no more turns.
        """
        if self._left:
            return
        self.flush()
        line = sys.stdin.readline()
        self._left = json.loads(line)["go"] if line.strip() else 0
        if not self._left:
            raise Ended
        self._marks = (time.perf_counter(), time.process_time())

    def end_step(self, rows: int, length: int, loss: float | None = None) -> None:
        """Notes a step of so many rows of so many tokens, and its loss if it is given.

        Its result must be there, and not only asked for. Its seconds are those since the end of the step before, or
        since the turn began.
        """
        marks = (time.perf_counter(), time.process_time())
        step = [rows, length, marks[0] - self._marks[0], marks[1] - self._marks[1]]
        self._steps.append(step if loss is None else [*step, loss])
        self._marks = marks
        self._left -= 1

    def flush(self) -> None:
        """Tells the steps since the last time, or at first that this contestant is ready."""
        self._say({"steps": self._steps} if self._told_ready else {"ready": self.info})
        self._told_ready = True
        self._steps = []

    def done(self, **told: Any) -> None:
        """Says that all is done, and what else there is to tell."""
        self._say({"done": told})

    def _say(self, value: dict[str, Any]) -> None:
        self._out.write(json.dumps(value) + "\n")
