"""Files and folders that appear under their final name only when they are whole, and disk errors in words."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfdist.errors import OutputError, TfdistError

_MORE_SPACE = "Free some space or choose another folder."
_WRITABLE = "Make the folder writable or choose another one."
# Errors of a disk, which do not depend on the file that is written, and their cures.
_DISK_CURES = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f) or choose another folder.",
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: "Choose a folder on a writable file system.",
}
_CURES = _DISK_CURES | {errno.EISDIR: "Give the path of a file, not of a folder."}
_OTHER_CURE = "Check the path and its file system."


def cannot_write(path: str | Path, error: OSError, kept: str = "") -> OutputError:
    """Returns the error to raise for `error`: the path, the reason, what is `kept`, and a cure."""
    if not error.errno:
        return _refused(path, str(error), _OTHER_CURE, kept)
    return _refused(path, os.strerror(error.errno), _CURES.get(error.errno, _OTHER_CURE), kept)


def _refused(path: str | Path, reason: str, cure: str, kept: str) -> OutputError:
    return OutputError(f"Cannot write {str(path)!r}: {reason}.{kept and f' {kept}'} {cure}")


@contextlib.contextmanager
def disk_errors_explained(path: str | Path) -> Iterator[None]:
    """Turns a full or read-only disk, found while writing under `path`, into one clear message.

    Keras and TensorFlow wrap some of these in errors of their own, which then carry the system's words.

    Raises:
        OutputError: The disk refused; the cause is chained.
    """
    try:
        yield
    except TfdistError:
        raise
    except Exception as error:
        given, text = getattr(error, "errno", None), str(error)
        code = next((code for code in _DISK_CURES if code == given or os.strerror(code) in text), None)
        if code is None:
            raise
        kept = "Files that were complete before are kept."
        raise _refused(path, os.strerror(code), _DISK_CURES[code], kept) from error


@contextlib.contextmanager
def replacing(path: str | Path, kept: str | None = None) -> Iterator[Path]:
    """Yields a path beside `path`, for a file or folder. What is written there becomes `path` if the body ends well.

    A crash, an error or Ctrl-C leaves what was at `path` before. The temporary name has the same ending as `path`,
    because Keras chooses the format by it.

    Args:
        path: A file or folder; folders above it are made.
        kept: A sentence for the error on what is unharmed; None for the one on what was at `path`.

    Raises:
        OutputError: It cannot be written; what was at `path` before is unchanged.
    """
    target = Path(path)
    temporary, previous = (
        target.with_name(f".{word}-{os.getpid()}-{target.name}") for word in ("tmp", "old")
    )
    if kept is None:
        kept = "What was there is unchanged." if target.exists() else ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)  # the rename must not reach the disk before the content
        if temporary.is_dir() and target.is_dir():
            os.replace(target, previous)  # a rename cannot replace a folder that has files
        os.replace(temporary, target)
        _sync_one(target.parent)
    except OSError as error:
        raise cannot_write(path, error, kept) from error
    finally:
        _remove(temporary)
        if target.exists():
            _remove(previous)
        elif previous.exists():
            os.replace(previous, target)


def write_atomically(path: str, write: Callable[[str], None]) -> None:
    """Calls `write(temporary)` with a path beside `path`; the file that it writes becomes `path`, see `replacing`.

    An object store ("gs://...") shows an object only when it is whole, so `write` is given `path` itself there.

    Raises:
        OutputError: The file cannot be written; the previous one, if any, is unchanged.
    """
    if "://" in path:
        write(path)
        return
    with replacing(path) as temporary:
        write(str(temporary))


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8, all or nothing.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` to `path` as readable JSON, all or nothing.

    Raises:
        OutputError: The file cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _sync(path: Path) -> None:
    """Sends a file, or all files of a folder, to the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_one(Path(folder) / name)
        _sync_one(Path(folder))
    if not path.is_dir():
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
