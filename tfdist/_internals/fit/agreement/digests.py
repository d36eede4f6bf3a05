"""Weights in short: what the processes compare instead of the weights, and how the first that differs is named."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfdist._internals.processes.coordination import all_gather_json

# Of a larger array every n-th element counts: a digest of all would take longer than a step.
_MAX_ELEMENTS = 1 << 22
# Of the array that is named as different, so many are sent.
_MAX_SENT = 1 << 16

# The piece that stands for the value that a variable was last given by the program, where no process has all of it.
AS_SET = "as it was set"

# Name of a variable -> name of a piece that this process holds -> the piece.
Pieces = Mapping[str, Mapping[str, np.ndarray]]


def digest_of(array: np.ndarray) -> int:
    """Returns a number that differs for different arrays, with all but certainty."""
    few = np.ascontiguousarray(sample(array, _MAX_ELEMENTS))
    return zlib.crc32(few.tobytes(), zlib.crc32(f"{array.shape} {array.dtype}".encode()))


def sample(array: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` elements of an array, evenly spread; all of a small one."""
    flat = array.reshape(-1)
    return flat[:: -(-flat.size // count) or 1]


def in_short(pieces: Pieces) -> dict[str, int]:
    """Returns name of a piece -> one digest for the pieces of this name of all variables."""
    found: dict[str, int] = {}
    for name, of_variable in pieces.items():
        for piece, array in of_variable.items():
            found[piece] = zlib.crc32(f"{name} {digest_of(array)}".encode(), found.get(piece, 0))
    return found


def differ(found: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether two processes have different values under one name; each may have names of its own."""
    known: dict[str, Any] = {}
    return any(known.setdefault(name, value) != value for one in found for name, value in one.items())


def first_difference(pieces: Pieces) -> str:
    """Returns the first variable that is not the same in all processes, in words; all processes call this."""
    own = {
        name: {piece: [list(array.shape), str(array.dtype), digest_of(array)] for piece, array in one.items()}
        for name, one in pieces.items()
    }
    found = all_gather_json("digests of variables", own)
    for index, one in enumerate(found):
        if list(one) != list(found[0]):
            return _other_names(list(found[0]), list(one), index)
    names = [name for name in own if differ([one[name] for one in found])]
    if not names:
        return "the order of the variables"
    more = f" (and {len(names) - 1} more variables)" if len(names) > 1 else ""
    # The array itself comes before the digest of what it was set to.
    for piece in sorted(
        {piece for one in found for piece in one[names[0]]}, key=lambda piece: piece == AS_SET
    ):
        values = [one[names[0]].get(piece) for one in found]
        holders = [index for index, value in enumerate(values) if value is not None]
        others = [index for index in holders if values[index] != values[holders[0]]]
        if others:
            said = _of_piece(piece, pieces[names[0]].get(piece), values, holders[0], others[0])
            return f"{names[0]!r} {said}{more}"
    return repr(names[0])


def _other_names(chief: list[str], other: list[str], index: int) -> str:
    missing = [name for name in chief if name not in other] or [name for name in other if name not in chief]
    have, lack = (0, index) if missing and missing[0] in chief else (index, 0)
    return f"{(missing or chief)[0]!r} is a variable of worker {have} and not of worker {lack}"


def _of_piece(piece: str, array: np.ndarray | None, values: list[Any], one: int, other: int) -> str:
    if values[one][:2] != values[other][:2]:
        shapes = [f"worker {index}: {tuple(values[index][0])} {values[index][1]}" for index in (one, other)]
        return "has other shapes: " + "; ".join(shapes)
    if piece == AS_SET:
        return f"was last set to one value by worker {one} and to another by worker {other}"
    sent = None if array is None else np.asarray(sample(array, _MAX_SENT), np.float64)
    arrays = all_gather_json(
        "values of a variable", None if sent is None else base64.b64encode(sent.tobytes()).decode()
    )
    a, b = (np.frombuffer(base64.b64decode(arrays[index])) for index in (one, other))
    return f"differs by up to {np.nanmax(np.abs(a - b), initial=0.0):.3g} between worker {one} and worker {other}"
