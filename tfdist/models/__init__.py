"""Plain Keras models for one device, with their tokenizers and weights; nothing here knows a strategy.

The names are imported on first use, so that `import tfdist.models` loads neither Keras nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "BertConfig": "bert_config",
    "BertTokenizer": "tokenizer",
    "WordTokenizer": "tokenizer",
    "bert_classifier": "bert",
    "bert_token_classifier": "bert",
    "build_bert": "bert",
    "build_bigru": "bigru",
    "build_mlp": "mlp",
    "find_minilm": "pretrained",
    "load_bert": "bert_weights",
    "resolve_model_folder": "pretrained",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
