"""The folder of one run: what lies where, and how it is written without half-written files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfdist.errors import ConfigError, ModelError, TfdistError

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the output folder of a run, for training, evaluation and prediction alike."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "run.yaml"

    @property
    def labels(self) -> Path:
        return self.path / "labels.json"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def best_model(self) -> Path:
        return self.path / "best.keras"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def export_text(self) -> Path:
        return self.path / "export_text"

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Makes the folder of a new run.

        Raises:
            ConfigError: Something lies there already, or it cannot be written.
        """
        path = Path(path)
        cure = "Give another folder with --output."
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise ConfigError(
                    f"Output folder {str(path)!r} is not empty; it must be empty or absent. {cure}"
                )
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except FileExistsError as error:
            raise ConfigError(f"Output {str(path)!r} is a file, not a folder. {cure}") from error
        except OSError as error:
            raise ConfigError(
                f"Output folder {str(path)!r} cannot be written: {error.strerror or error}. {cure}"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Returns the folder of a finished run.

        Raises:
            ModelError: It is absent, or a file of it is missing.
        """
        folder = cls(Path(path))
        needed = (folder.config, folder.labels, folder.tokenizer, folder.best_model)
        missing = [part.name for part in needed if not part.exists()]
        if missing:
            what = f"lacks {', '.join(missing)}" if folder.path.is_dir() else "is not a folder"
            raise ModelError(
                f"{str(path)!r} {what}; a run folder holds {', '.join(part.name for part in needed)}. "
                "Give the --output folder of a `tfdist train` that finished."
            )
        return folder

    def read_labels(self) -> list[str]:
        """Returns the label names, in the order of the model's outputs."""
        try:
            labels = json.loads(self.labels.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{str(self.labels)!r} is not valid JSON ({error}). Train again.") from error
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise ModelError(f"{str(self.labels)!r} must hold a list of label names. Train again.")
        return labels


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` to write a file or folder at; it becomes `target` when all went well.

    Whatever ends the block early (an error, Ctrl-C), nothing new lies under the name `target`.
    """
    temporary = target.with_name(f".{os.getpid()}.partial.{target.name}")
    try:
        yield temporary
        if target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to `path` as readable JSON, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk, found while writing under `path`, into one clear message.

    Keras and TensorFlow wrap some of these in errors of their own, which then carry the system's words.

    Raises:
        TfdistError: The disk refused; the cause is chained.
    """
    try:
        yield
    except TfdistError:
        raise
    except Exception as error:
        words = next((os.strerror(code) for code in _DISK_ERRORS if os.strerror(code) in str(error)), None)
        if getattr(error, "errno", None) in _DISK_ERRORS:
            words = os.strerror(error.errno)  # type: ignore[attr-defined]
        if words is None:
            raise
        raise TfdistError(
            f"Cannot write under {str(path)!r}: {words}. Files that were complete before are kept; "
            "free some space or give another folder with --output."
        ) from error
