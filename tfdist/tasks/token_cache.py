"""Tokenized examples on disk, found again by what they were made of.

The key is a hash of the examples, the label names, the tokenizer with its vocabulary and options, the largest length
and the version of the format. So a file never goes stale: what changes any of these has another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfdist.errors import OutputError
from tfdist.files import replacing
from tfdist.log import LOGGER
from tfdist.tasks.base import Encoded, Task, Tokenizer

FORMAT_VERSION = 1
FOLDER_VARIABLE = "TFDIST_CACHE"
OFF = "none"
# Files that were not used for the longest time are removed until the others take no more than this.
LIMIT_BYTES = 2 << 30
_CHECKSUM = "checksum"


class TokenCache:
    """A folder of tokenized examples; each file is whole, and checked when it is read.

    Attributes:
        folder: Where the files lie; None if nothing is kept.
    """

    def __init__(self, folder: Path | None, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self._limit = limit_bytes

    @classmethod
    def of(cls, cache_dir: str, environ: Mapping[str, str] = os.environ) -> TokenCache:
        """Returns the cache of a run.

        Args:
            cache_dir: A folder, `none`, or `auto`: the folder or `none` of the variable TFDIST_CACHE, or otherwise
                `tfdist` in XDG_CACHE_HOME or in `~/.cache`.
            environ: The environment.
        """
        chosen = environ.get(FOLDER_VARIABLE, "") if cache_dir == "auto" else cache_dir
        if chosen == OFF:
            return cls(None)
        if chosen:
            return cls(Path(chosen).expanduser() / "tokens")
        base = Path(environ.get("XDG_CACHE_HOME", "")).expanduser()
        try:
            base = base if base.is_absolute() else Path.home() / ".cache"
        except RuntimeError:  # this user has no home
            return cls(None)
        return cls(base / "tfdist" / "tokens")

    def load(self, key: str) -> Encoded | None:
        """Returns what was stored by `key`; None if there is nothing or it is damaged, which is logged."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if arrays.pop(_CHECKSUM, np.array("")).item() != _digest(arrays):
                raise ValueError("its checksum is another one")
            encoded = _from_arrays(arrays)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            LOGGER.warning("the cached tokens %s cannot be used, and are made anew: %s", path, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return encoded

    def store(self, key: str, encoded: Encoded) -> None:
        """Writes a file, whole or not at all; a full disk or a folder that cannot be written to only warns."""
        if self.folder is None:
            return
        arrays = _to_arrays(encoded)
        contents: dict[str, Any] = {**arrays, _CHECKSUM: np.array(_digest(arrays))}
        try:
            with replacing(self._path(key)) as temporary:
                np.savez(temporary, **contents)
        except OutputError as error:
            LOGGER.warning("the tokens are not kept for the next run. %s", error)
        self._make_room()

    def _path(self, key: str) -> Path:
        assert self.folder is not None  # for the type checker: the callers have asked
        return self.folder / f"{key}.npz"

    def _make_room(self) -> None:
        assert self.folder is not None  # for the type checker: the caller has asked
        with contextlib.suppress(OSError):  # another run may remove the same files
            files = [(path, path.stat()) for path in self.folder.glob("*.npz")]
            files.sort(key=lambda found: found[1].st_mtime)
            total = sum(status.st_size for _, status in files)
            for path, status in files:
                if total <= self._limit:
                    break
                path.unlink()
                total -= status.st_size


def key_of(
    task: Task, examples: Sequence[Any], names: Sequence[str] | None, tokenizer: Tokenizer, max_length: int
) -> str:
    """Returns 40 hexadecimal digits that follow from all that `task.encode` is given, and from the format."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (FORMAT_VERSION, task.name, max_length, names and list(names), tokenizer.description()):
        digest.update(f"{part!r}\n".encode())
    for example in examples:
        digest.update(f"{example!r}\n".encode())
    return digest.hexdigest()


def _to_arrays(encoded: Encoded) -> dict[str, np.ndarray]:
    arrays = _flat("ids", encoded.ids)
    if isinstance(encoded.labels, np.ndarray):
        arrays["labels"] = encoded.labels
    elif encoded.labels is not None:
        arrays |= _flat("labels", encoded.labels)
    if encoded.positions is not None:
        arrays |= _flat("positions", encoded.positions)
    return arrays


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Encoded:
    labels: Any = arrays.get("labels")
    if labels is None and "labels/values" in arrays:
        labels = _rows("labels", arrays)
    positions = _rows("positions", arrays) if "positions/values" in arrays else None
    return Encoded(_rows("ids", arrays), labels, positions)


def _flat(name: str, rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {
        f"{name}/values": np.concatenate(rows),
        f"{name}/lengths": np.array([len(row) for row in rows], np.int64),
    }


def _rows(name: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    ends = np.cumsum(arrays[f"{name}/lengths"])
    values = arrays[f"{name}/values"]
    return [values[end - length : end] for end, length in zip(ends, arrays[f"{name}/lengths"], strict=True)]


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
