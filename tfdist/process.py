"""Which process of the run this is. The functions use no collectives and never wait, so they work everywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Process:
    index: int = 0
    count: int = 1


_PROCESS = _Process()


def set_process(index: int, count: int) -> None:
    """Records that this is process `index` of `count`."""
    _PROCESS.index, _PROCESS.count = index, count


def process_index() -> int:
    """Index of this process, from 0."""
    return _PROCESS.index


def num_processes() -> int:
    """Number of processes that train together."""
    return _PROCESS.count


def is_chief() -> bool:
    """Whether this process writes the files and shows the progress."""
    return _PROCESS.index == 0
