import errno
from pathlib import Path

import keras
import numpy as np
import pytest

from tfdist._internals.processes import coordination
from tfdist.callbacks import BackupAndRestore
from tfdist.errors import ConfigError, ModelError, OutputError, UnsupportedError


class Interruption(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch == 2:
            raise KeyboardInterrupt


def _fit(model, data, *callbacks: keras.callbacks.Callback) -> keras.callbacks.History:
    return model.fit(*data, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=list(callbacks))


def test_interrupted_fit_goes_on_to_the_same_weights(model, data, tmp_path: Path) -> None:
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    fresh.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.raises(KeyboardInterrupt):
        _fit(model, data, BackupAndRestore(str(tmp_path / "backup")), Interruption())
    assert [path.name for path in (tmp_path / "backup").iterdir()] == ["epoch-2"]

    start = model.get_weights()
    restarted = keras.models.clone_model(model)
    restarted.compile(keras.optimizers.SGD(0.1), "mse")
    history = _fit(restarted, data, BackupAndRestore(str(tmp_path / "backup")))
    assert history.epoch == [2]
    assert not (tmp_path / "backup").exists()

    _fit(fresh, data)
    np.testing.assert_array_equal(fresh.get_weights()[0], restarted.get_weights()[0])
    assert not np.array_equal(start[0], restarted.get_weights()[0])


def test_only_the_chief_writes(model, data, tmp_path: Path, become_worker) -> None:
    met = become_worker(1, 2)
    _fit(model, data, BackupAndRestore(str(tmp_path / "backup")))
    assert not (tmp_path / "backup").exists()
    assert met == ["broadcast/backup_and_restore", "barrier/backup_and_restore"]


def test_worker_without_the_folder_says_so(model, data, tmp_path: Path, become_worker, monkeypatch) -> None:
    become_worker(1, 2)
    monkeypatch.setattr(coordination, "all_gather_json", lambda *_: ["epoch-2", None])
    with pytest.raises(ModelError, match="file system that all hosts share"):
        _fit(model, data, BackupAndRestore(str(tmp_path / "backup")))


def test_full_disk_keeps_the_backup_before(model, data, tmp_path: Path, monkeypatch) -> None:
    stock = keras.Model.save_weights

    def full(self: keras.Model, filepath: str, **options: object) -> None:
        stock(self, filepath, **options)
        if "epoch-2" in str(filepath):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(OutputError, match=r"epoch-2.*No space left.*before it is unchanged.*Free some space"):
        _fit(model, data, BackupAndRestore(str(tmp_path / "backup")))
    assert [path.name for path in (tmp_path / "backup").iterdir()] == ["epoch-1"]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="save_freq=100.*show batches twice.*steps_per_epoch"):
        BackupAndRestore(str(tmp_path), save_freq=100)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="backup_dir is empty"):
        BackupAndRestore("")
