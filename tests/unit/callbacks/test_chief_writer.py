from collections.abc import Callable
from pathlib import Path

import keras

from tfdist.callbacks.chief_writer import AtomicModel


def test_atomic_model_is_the_model_otherwise(model: keras.Model, tmp_path: Path) -> None:
    atomic = AtomicModel(model)
    atomic.stop_training = True
    assert model.stop_training
    assert atomic.metrics == model.metrics
    atomic.save_weights(str(tmp_path / "m.weights.h5"))
    model.load_weights(tmp_path / "m.weights.h5")


def test_the_chief_alone_writes(
    model: keras.Model, tmp_path: Path, become_worker: Callable[[int, int], list[str]]
) -> None:
    become_worker(1, 2)
    AtomicModel(model).save(str(tmp_path / "m.keras"))
    assert not list(tmp_path.iterdir())
    become_worker(0, 2)
    AtomicModel(model).save(str(tmp_path / "m.keras"))
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]
