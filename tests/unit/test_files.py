"""Writing files and folders all or nothing, and what is said when the disk refuses."""

import errno
import json
import os
from pathlib import Path

import pytest

from tfdist.errors import ModelError, OutputError
from tfdist.files import disk_errors_explained, replacing, write_atomically, write_json


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


def test_replacing_keeps_the_old_file_until_the_new_one_is_complete(tmp_path):
    write_json(tmp_path / "x.json", ["ä"])
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x.json") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert json.loads((tmp_path / "x.json").read_text()) == ["ä"]
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_replacing_a_folder(tmp_path):
    for content in ("1", "2"):
        with replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(content)
    assert (tmp_path / "folder" / "file").read_text() == "2"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RuntimeError), replacing(tmp_path / "other") as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("ResourceExhausted: x.data: No space left on device"),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
    ],
)
def test_disk_errors_are_explained(tmp_path, error):
    message = "Cannot write .*(No space left|too large).*complete before are kept.*choose another folder"
    with pytest.raises(OutputError, match=message), disk_errors_explained(tmp_path):
        raise error


@pytest.mark.parametrize("error", [ValueError("other"), ModelError("mine"), OSError(errno.ENOENT, "x")])
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught, disk_errors_explained(tmp_path):
        raise error
    assert caught.value is error


def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    rename = os.replace

    def refuse_the_new(source, target):
        if ".tmp" in str(source):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse_the_new)
    with (
        pytest.raises(OutputError, match="What was there is unchanged"),
        replacing(tmp_path / "folder") as new,
    ):
        new.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "old").exists()


def test_content_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch) -> None:
    done = []
    rename, sync = os.replace, os.fsync

    def note_sync(descriptor):
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def note_rename(source, target):
        done.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    with replacing(tmp_path / "folder") as new:
        (new / "part").mkdir(parents=True)
        (new / "part" / "file").write_text("x")
    before, after = done[: done.index("renamed")], done[done.index("renamed") + 1 :]
    assert sorted(before) == sorted(["file", "part", new.name])
    assert after == [tmp_path.name]
