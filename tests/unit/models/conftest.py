from __future__ import annotations

from pathlib import Path

import keras
import pytest


@pytest.fixture
def dtype_policy():
    """Sets a dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def minilm_reference() -> Path:
    """The folder with the pretrained model and the outputs of its reference implementation."""
    folder = Path(__file__).parents[4] / "shared/models/minilm-l6-h384"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}")
    return folder
