"""Reads UTF-8 text; the error for other bytes names the place of the first one."""

from __future__ import annotations

from pathlib import Path

from tfdist.errors import DataError


def read_text(path: Path) -> str:
    """Returns the text of `path`, without a byte-order mark and with its line ends as they are.

    Raises:
        DataError: If the file cannot be read or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Give a readable file.") from error
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: byte {error.start} (0x{raw[error.start]:02x}) is not valid UTF-8. Files must be "
            f"UTF-8; convert it, for example: iconv -f latin1 -t utf-8 {path.name}."
        ) from error
