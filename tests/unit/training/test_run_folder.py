import errno
import os
from pathlib import Path

import pytest

from tfdist.errors import ConfigError, ModelError
from tfdist.training.run_folder import RunFolder


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
