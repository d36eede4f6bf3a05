"""`BackupAndRestore` for several workers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdist._internals.contract import distribution_of
from tfdist._internals.processes.coordination import barrier, broadcast_json
from tfdist.callbacks.chief_writer import save_along, settle
from tfdist.errors import ConfigError, ModelError, UnsupportedError
from tfdist.files import replacing
from tfdist.process import is_chief

# In a backup: what the strategy keeps of a run, such as the part of gradients that was not sent yet.
_OWN_STATE = "strategy.npz"


class BackupAndRestore(keras.callbacks.Callback):
    """Keeps the last finished epoch in `backup_dir`; an interrupted `fit`, started again, goes on after it.

    The chief writes a folder `epoch-N`, which appears by a rename, so that weights and epoch number always belong
    together, and with them what a strategy keeps of a training, such as the outer momentum of local steps. Every worker
    reads the folder that the chief names. Keras's own `BackupAndRestore` writes and reads each folder. It leaves out
    the seeds of dropout and the position in the data, and so does this callback. That is why only whole epochs are
    kept.

    Args:
        backup_dir: A folder for this backup alone. On several hosts it must be one that all of them see.
        save_freq: "epoch". Keras's integers are refused: after a restart some batches would be shown twice.
        delete_checkpoint: Whether the backup is deleted when `fit` has finished.

    Raises:
        ConfigError: `backup_dir` is empty.
        UnsupportedError: `save_freq` is not "epoch".
        ModelError: When `fit` begins: a worker does not see the folder from which the chief restores.
    """

    def __init__(self, backup_dir: str, save_freq: str = "epoch", delete_checkpoint: bool = True) -> None:
        super().__init__()
        if not str(backup_dir):
            raise ConfigError("backup_dir is empty. Give the path of a folder for the backup alone.")
        if save_freq != "epoch":
            raise UnsupportedError(
                f"save_freq={save_freq!r} would back up in mid-epoch and show batches twice after a "
                'restart; allowed: "epoch". To save more often, shorten the epochs with steps_per_epoch.'
            )
        self.backup_dir = Path(backup_dir)
        self.delete_checkpoint = delete_checkpoint

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        newest = broadcast_json("backup_and_restore", self._newest())
        if newest is None:
            return
        folder = self.backup_dir / newest
        if not folder.is_dir():
            raise ModelError(
                f"The chief restores from {str(folder)!r}, which this worker does not see. "
                "Put backup_dir on a file system that all hosts share."
            )
        self._stock(folder).on_train_begin()
        if (folder / _OWN_STATE).is_file():
            with np.load(folder / _OWN_STATE) as values:
                for name, (_, write) in self._own_state().items():
                    if name in values:
                        write(values[name])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        settle(self.model)
        own = {name: read() for name, (read, _) in self._own_state().items()}
        if is_chief():
            self._save(epoch, own)
        else:
            save_along(self.model, lambda folder: self._stock(Path(folder)).on_epoch_end(epoch))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        barrier("backup_and_restore")
        if self.delete_checkpoint and is_chief():
            shutil.rmtree(self.backup_dir, ignore_errors=True)

    def _stock(self, folder: Path) -> keras.callbacks.BackupAndRestore:
        stock = keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)
        stock.set_model(self.model)
        return stock

    def _own_state(self) -> dict[str, Any]:
        distribution = distribution_of(self.model.distribute_strategy)
        return {} if distribution is None else distribution.own_state(self.model)

    def _newest(self) -> str | None:
        names = [
            path.name for path in self.backup_dir.glob("epoch-*") if re.fullmatch(r"epoch-\d+", path.name)
        ]
        return max(names, default=None, key=lambda name: int(name.split("-")[1]))

    def _save(self, epoch: int, own: dict[str, np.ndarray]) -> None:
        previous = self._newest()
        folder = self.backup_dir / f"epoch-{epoch + 1}"
        with replacing(folder, "The backup before it is unchanged.") as temporary:
            self._stock(temporary).on_epoch_end(epoch)
            if own:
                np.savez(Path(temporary) / _OWN_STATE, **own)  # type: ignore[arg-type]
        if previous not in (None, folder.name):
            shutil.rmtree(self.backup_dir / str(previous), ignore_errors=True)
