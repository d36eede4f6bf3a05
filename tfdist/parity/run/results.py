"""Results of one case in one process, on disk: a JSON status, and the arrays beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfdist.files import write_json


@dataclass(frozen=True)
class Status:
    """How the run of a case ended in one process.

    Attributes:
        outcome: `"ok"`, an exception (`"error"`), no end within the limit (`"hang"`), or the end of the
            process (`"crash"`).
        message: Type and first line of the exception, or what else has happened.
        seconds: Wall time.
        cpu_s: Processor time.
        broken: Whether the runtime of the process is unusable afterwards, as after a collective error.
    """

    outcome: Literal["ok", "error", "hang", "crash"]
    message: str = ""
    seconds: float = 0.0
    broken: bool = False
    cpu_s: float = 0.0


def status_path(folder: Path, case: str, process_index: int) -> Path:
    """Returns the path at which a process records how a case ended."""
    return folder / f"{case}.{process_index}.json"


def write(
    folder: Path, case: str, process_index: int, status: Status, arrays: Mapping[str, Any] | None
) -> None:
    """Writes the arrays, and then the status under its final name, so that the arrays are there when it appears."""
    path = status_path(folder, case, process_index)
    if arrays is not None:
        named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        np.savez(path.with_suffix(".npz"), **named)
    write_json(path, asdict(status))


def read_status(folder: Path, case: str, process_index: int) -> Status | None:
    """Returns the status, or None if the process has not ended the case."""
    try:
        return Status(**json.loads(status_path(folder, case, process_index).read_text()))
    except FileNotFoundError:
        return None


def read_arrays(folder: Path, case: str, process_index: int) -> dict[str, np.ndarray]:
    """Returns the named arrays of a case that ended well."""
    with np.load(status_path(folder, case, process_index).with_suffix(".npz")) as arrays:
        return dict(arrays)
