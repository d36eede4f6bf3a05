"""The other side of taking turns: starts a contestant, gives it turns, and reads what it tells."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Seconds after which a contestant that says nothing has failed. A turn may compile a model for many shapes.
SILENT_S = 1800.0


class ContestantError(Exception):
    """A contestant ended or said nothing for too long; the text has the last line of its log."""


@dataclass(frozen=True)
class Kind:
    """One way to train.

    Attributes:
        module: The program, run with `-m` from the project's root.
        needs: Packages that the Python must have.
        environment: What it sees beside the parent's environment.
        compiles_shapes: Whether the first step of each padded length is not like the others.
    """

    module: str
    needs: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    compiles_shapes: bool = True


KINDS = {
    "tfdist": Kind("benchmarks.peers.tfdist_run", ("tensorflow", "tfdist"), {"KERAS_BACKEND": "tensorflow"}),
    "keras-tf": Kind("benchmarks.peers.keras_run", ("tensorflow", "keras_hub"), {"KERAS_BACKEND": "tensorflow"}),
    "keras-jax": Kind("benchmarks.peers.keras_run", ("jax", "keras_hub"), {"KERAS_BACKEND": "jax"}),
    "hf": Kind("benchmarks.peers.torch_run", ("torch", "transformers", "accelerate"), compiles_shapes=False),
}


def missing(kind: Kind, python: str) -> list[str]:
    """Returns which packages the Python lacks; all of them if it does not run."""
    code = (
        f"import importlib.util as u; print(*[n for n in {list(kind.needs)} if u.find_spec(n) is None], sep=',')"
    )
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    except (OSError, subprocess.SubprocessError):
        return list(kind.needs)
    return [name for name in done.stdout.strip().split(",") if name]


class Contestant:
    """A contestant's process. It works only between `take` and its return."""

    def __init__(self, kind: Kind, python: str, arguments: Sequence[str], log: Path, **environment: str) -> None:
        self._log = log
        self._start = time.perf_counter()
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-m", kind.module, *arguments],
                env={**os.environ, **quiet, "PYTHONPATH": path, **kind.environment, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
            )
        self.info: dict[str, Any] = self._read("ready")
        self.start_s = time.perf_counter() - self._start

    def take(self, steps: int) -> list[list[float]]:
        """Lets it train so many steps; returns rows, padded length, seconds and processor seconds of each.

        At the end of its epochs it returns fewer.
        """
        self._write({"go": steps})
        return self._read("steps")

    def end(self) -> dict[str, Any]:
        """Waits until it has told that it is done; returns what it told."""
        if self._process.poll() is None:
            self._write({"go": 0})
        return self._read("done")

    def close(self) -> None:
        """Ends the process, however it is."""
        self._process.kill()
        self._process.wait()

    def _write(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(value) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended; what it told before is read
            return

    def _read(self, key: str) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], SILENT_S)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self.close()
            lines = [one for one in self._log.read_text(errors="replace").splitlines() if one.strip()]
            raise ContestantError(lines[-1][:200] if lines else "it ended without a word")
        return json.loads(line)[key]
