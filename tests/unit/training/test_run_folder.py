import errno
import json
import os
from pathlib import Path

import pytest

from tfdist.errors import ConfigError, ModelError, TfdistError
from tfdist.training.run_folder import RunFolder, disk_errors_explained, replacing, write_json


def test_create_makes_parents(tmp_path):
    assert RunFolder.create(tmp_path / "a" / "b").path.is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())


def test_create_refuses_a_folder_with_files(tmp_path):
    (tmp_path / "old.txt").touch()
    with pytest.raises(ConfigError, match="is not empty; it must be empty or absent. Give another folder"):
        RunFolder.create(tmp_path)


def test_create_refuses_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        RunFolder.create(tmp_path / "file")


def test_create_refuses_what_cannot_be_written(tmp_path, monkeypatch):
    # Permissions do not bind root, whom containers often run as, so the system's answer is imitated.
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(ConfigError, match="cannot be written: Permission denied. Give another folder"):
        RunFolder.create(tmp_path / "new")


def test_open_names_what_is_missing(tmp_path):
    with pytest.raises(ModelError, match="is not a folder"):
        RunFolder.open(tmp_path / "absent")
    (tmp_path / "run.yaml").touch()
    with pytest.raises(ModelError, match="lacks labels.json, tokenizer, best.keras"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("text", ["[", "{}", "[]", "[1]"])
def test_malformed_labels(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ModelError, match="labels.json"):
        RunFolder(tmp_path).read_labels()


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
    message = "Cannot write under .*(No space|too large).*free some space"
    with pytest.raises(TfdistError, match=message), disk_errors_explained(tmp_path):
        raise error


@pytest.mark.parametrize("error", [ValueError("other"), ModelError("mine"), OSError(errno.ENOENT, "x")])
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught, disk_errors_explained(tmp_path):
        raise error
    assert caught.value is error
