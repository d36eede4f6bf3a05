import errno
from pathlib import Path

import keras
import pytest

from tfdist.callbacks.atomic_save import AtomicModel, write_atomically
from tfdist.errors import OutputError


def test_file_appears_whole_and_folder_is_made(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    seen = []

    def write(path: str) -> None:
        Path(path).write_text("whole")
        seen.append(target.exists())

    write_atomically(str(target), write)
    assert seen == [False]
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]
    assert target.read_text() == "whole"


@pytest.mark.parametrize("failure", [RuntimeError("bug"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_previous_file_alone(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("previous")

    def write(path: str) -> None:
        Path(path).write_text("half")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(str(target), write)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "previous"


def test_full_disk_is_said_with_the_cure(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("previous")

    def write(path: str) -> None:
        Path(path).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"No space left.*unchanged.*Free some space") as caught:
        write_atomically(str(target), write)
    assert str(target) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "previous"


def test_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Check the path"):
        write_atomically(str(tmp_path / "file" / "a.txt"), lambda path: None)


def test_object_store_gets_the_final_name() -> None:
    seen: list[str] = []
    write_atomically("gs://bucket/a.keras", seen.append)
    assert seen == ["gs://bucket/a.keras"]


def test_atomic_model_is_the_model_otherwise(model: keras.Model, tmp_path: Path) -> None:
    atomic = AtomicModel(model)
    atomic.stop_training = True
    assert model.stop_training
    assert atomic.metrics == model.metrics
    atomic.save_weights(str(tmp_path / "m.weights.h5"))
    model.load_weights(tmp_path / "m.weights.h5")
