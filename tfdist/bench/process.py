"""The other side of taking turns: starts a contestant, gives it turns, and reads what it tells."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Seconds after which a contestant that says nothing has failed. A turn may compile a model for many shapes.
SILENT_S = 1800.0
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}

# Rows, padded length in tokens, seconds, and seconds of the processor.
Step = Sequence[float]


class ContestantError(Exception):
    """A contestant ended or said nothing for too long; the text has the last line of its log."""


class Contestant:
    """One process, or several that train together. They work only between `take` and its return.

    Args:
        commands: The command of each process.
        log: Folder for the standard error of each.
        environments: What each sees beside the environment of this process.
        silent_s: Seconds after which a contestant that says nothing has failed.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        log: Path,
        environments: Sequence[Mapping[str, str]],
        silent_s: float = SILENT_S,
    ) -> None:
        self._silent_s = silent_s
        log.mkdir(parents=True, exist_ok=True)
        self._logs = [log / f"{number}.log" for number in range(len(commands))]
        start = time.perf_counter()
        self._processes = [
            _start(command, path, environment)
            for command, path, environment in zip(commands, self._logs, environments, strict=True)
        ]
        self.info: dict[str, Any] = self._read_all("ready")[0]
        self.start_s = time.perf_counter() - start

    def take(self, steps: int) -> list[Step]:
        """Lets it train so many steps; returns them, or fewer where its epochs end. Those of the first process.

        Raises:
            ContestantError: It has failed.
        """
        self._write(steps)
        found: list[Step] = self._read_all("steps")[0]
        return found

    def end(self) -> dict[str, Any]:
        """Tells it that there are no more turns, waits until it is done, and returns what it tells then.

        Raises:
            ContestantError: It has failed.
        """
        self._write(0)
        told: dict[str, Any] = self._read_all("done")[0]
        return told

    def close(self) -> None:
        """Ends the processes, however they are."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _write(self, steps: int) -> None:
        for process in self._processes:
            assert process.stdin is not None  # for the type checker: it is a pipe
            try:
                process.stdin.write((json.dumps({"go": steps}) + "\n").encode())
                process.stdin.flush()
            except BrokenPipeError:  # it has ended; what it told before is read
                continue

    def _read_all(self, key: str) -> list[Any]:
        return [self._read(number, key) for number in range(len(self._processes))]

    def _read(self, number: int, key: str) -> Any:
        stdout = self._processes[number].stdout
        assert stdout is not None  # for the type checker: it is a pipe
        ready, _, _ = select.select([stdout], [], [], self._silent_s)
        line = stdout.readline() if ready else b""
        if not line:
            self.close()
            raise ContestantError(self._last_words())
        return json.loads(line)[key]

    def log(self) -> str:
        """Returns what the first process and its libraries have written beside the protocol."""
        return self._logs[0].read_text(errors="replace")

    def _last_words(self) -> str:
        for log in self._logs:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            told = [line for line in lines if "Error: " in line]
            if told or lines:
                return (told or lines)[-1][:300]
        return "it ended without a word"


def _start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("w") as errors:
        return subprocess.Popen(
            command,
            env={**os.environ, **_QUIET, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
