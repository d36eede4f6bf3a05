"""Files that appear under their final name only when they are whole, and only from the chief."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfdist.errors import OutputError
from tfdist.process import is_chief

_CURES = {
    errno.ENOSPC: "Free some space or choose another folder.",
    errno.EDQUOT: "Free some space or choose another folder.",
    errno.EACCES: "Make the folder writable or choose another one.",
    errno.EROFS: "Choose a folder on a writable file system.",
    errno.EISDIR: "Give the path of a file, not of a folder.",
}
_OTHER_CURE = "Check the path and its file system."


def cannot_write(path: str, error: OSError, kept: str = "") -> OutputError:
    """Returns the error to raise for `error`: the path, the reason, what is `kept`, and a cure."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OutputError(f"Cannot write {path!r}: {reason}.{kept} {_CURES.get(error.errno or 0, _OTHER_CURE)}")


def write_atomically(path: str, write: Callable[[str], None]) -> None:
    """Calls `write(temporary)` beside `path`, then renames: a crash leaves the previous file as it was.

    The temporary name keeps the ending of `path`, by which Keras chooses the format. An object store
    ("gs://...") shows an object only when it is whole, so there `write` gets `path` itself.

    Raises:
        OutputError: The file cannot be written; the previous one, if any, is unchanged.
    """
    if "://" in path:
        write(path)
        return
    target = Path(path)
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(str(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # the rename must not reach the disk before the content
        os.replace(temporary, target)
    except OSError as error:
        raise cannot_write(
            path, error, " The file that was there is unchanged." if target.is_file() else ""
        ) from error
    finally:
        with suppress(OSError):  # gone after the rename; after a failure it must not stay
            temporary.unlink()


def save_along(model: Any, save: Callable[[str], None]) -> None:
    """Saves to a folder that is deleted, where the chief needs this process's pieces of variables to save itself."""
    if getattr(model.distribute_strategy, "saves_together", False):
        with tempfile.TemporaryDirectory() as folder:
            save(folder)


class AtomicModel:
    """A model whose `save` and `save_weights` write atomically on the chief, and nothing on other processes.

    Everything else is the model's own, so that a stock Keras callback given this object in `set_model` needs
    no further change.
    """

    def __init__(self, model: Any) -> None:
        object.__setattr__(self, "_wrapped", model)

    def save(self, filepath: str, **options: Any) -> None:
        self._write(self._wrapped.save, filepath, options)

    def save_weights(self, filepath: str, **options: Any) -> None:
        self._write(self._wrapped.save_weights, filepath, options)

    def _write(self, save: Callable[..., None], filepath: str, options: dict[str, Any]) -> None:
        if is_chief():
            write_atomically(str(filepath), lambda temporary: save(temporary, **options))
        else:
            save_along(
                self._wrapped,
                lambda folder: save(os.path.join(folder, os.path.basename(filepath)), **options),
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)
