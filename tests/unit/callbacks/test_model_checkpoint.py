from pathlib import Path

import keras
import numpy as np
import pytest

from tfdist.callbacks import ModelCheckpoint
from tfdist.errors import OutputError


def test_saves_what_stock_saves(model, data, tmp_path: Path) -> None:
    best = tmp_path / "best.keras"
    callback = ModelCheckpoint(str(best), monitor="loss", save_best_only=True)
    weights = ModelCheckpoint(str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True)
    history = model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[callback, weights]).history
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.weights.h5", "2.weights.h5", "best.keras"]
    assert callback.get_state() == {"best": min(history["loss"])}
    np.testing.assert_array_equal(keras.saving.load_model(best).get_weights()[0], model.get_weights()[0])


def test_only_the_chief_writes_and_all_meet(model, data, tmp_path: Path, become_worker, capsys) -> None:
    met = become_worker(1, 2)
    callback = ModelCheckpoint(str(tmp_path / "best.keras"), monitor="loss", save_best_only=True, verbose=1)
    history = model.fit(*data, batch_size=8, verbose=0, callbacks=[callback]).history
    assert not list(tmp_path.iterdir())
    assert callback.get_state() == {"best": history["loss"][0]}  # it follows all the same
    assert met == ["barrier/model_checkpoint"]
    assert "saving" not in capsys.readouterr().out


def test_best_survives_a_restart(model, data, tmp_path: Path) -> None:
    callback = ModelCheckpoint(str(tmp_path / "best.keras"), monitor="loss", save_best_only=True)
    callback.set_state({"best": 0.0})
    model.fit(*data, batch_size=8, verbose=0, callbacks=[callback])
    assert not list(tmp_path.iterdir())


def test_failed_save_keeps_the_previous_model(model, data, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.keras"
    model.fit(*data, batch_size=8, verbose=0, callbacks=[ModelCheckpoint(str(path))])
    before = path.read_bytes()
    stock = keras.Model.save

    def half(self: keras.Model, filepath: str, **options: object) -> None:
        stock(self, filepath, **options)
        with open(filepath, "r+b") as file:
            file.truncate(100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", half)
    with pytest.raises(OutputError, match="No space left on device"):
        model.fit(*data, batch_size=8, verbose=0, callbacks=[ModelCheckpoint(str(path))])
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]


def test_folder_that_cannot_be_made(model, data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    callback = ModelCheckpoint(str(tmp_path / "file" / "folder" / "m.keras"))
    with pytest.raises(OutputError, match=r"m\.keras.*Check the path"):
        model.fit(*data, batch_size=8, verbose=0, callbacks=[callback])
