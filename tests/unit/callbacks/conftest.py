"""A model small enough to compile in a second, and a way to be another worker for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest

from tfdist._internals.processes import coordination
from tfdist._internals.registry import apply_patches
from tfdist.process import num_processes, process_index, set_process


@pytest.fixture
def model() -> keras.Model:
    apply_patches()  # as the first strategy of a process does: no test may depend on which ran before
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(
        keras.optimizers.SGD(0.1), "mse", metrics=["mae"], run_eagerly=True
    )  # compiling costs a second
    return model


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    """37 examples: 5 steps of 8, the last with 5."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(37, 4)).astype("float32"), rng.normal(size=(37, 2)).astype("float32")


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
