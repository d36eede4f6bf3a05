import csv
from pathlib import Path

import pytest

from tfdist.callbacks import CSVLogger
from tfdist.errors import OutputError


def test_chief_writes_the_history(model, data, tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.csv"
    history = model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[CSVLogger(str(path))]).history
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx(history["loss"], rel=1e-6)


def test_other_workers_write_nothing(model, data, tmp_path: Path, become_worker) -> None:
    become_worker(1, 2)
    model.fit(*data, batch_size=8, verbose=0, callbacks=[CSVLogger(str(tmp_path / "log.csv"))])
    assert not list(tmp_path.iterdir())


def test_path_that_cannot_be_written(model, data, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Give the path of a file"):
        model.fit(*data, verbose=0, callbacks=[CSVLogger(str(tmp_path))])
