"""The fixtures of `small_model`, and a way to be another worker for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from small_model import data, model

from tfdist._internals.processes import coordination
from tfdist.process import num_processes, process_index, set_process

__all__ = ["become_worker", "data", "model"]


@pytest.fixture
def become_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], list[str]]]:
    """`become_worker(index, count)` makes this process look like that worker; it notes meetings."""
    before = process_index(), num_processes()
    met: list[str] = []

    def become(index: int, count: int) -> list[str]:
        def gather(name: str, value: object, timeout_s: float = 0.0) -> list[object]:
            met.append(name)
            return [value] * count

        monkeypatch.setattr(coordination, "all_gather_json", gather)
        monkeypatch.setattr("tfdist.callbacks.tensorboard.all_gather_json", gather)
        monkeypatch.setattr("tfdist.callbacks.throughput.all_gather_json", gather)
        set_process(index, count)
        return met

    yield become
    set_process(*before)
