"""Plain Keras models for one device, with their tokenizers and weights; nothing here knows a strategy.

The names are imported on first use, so that `import tfdist.models` loads neither Keras nor TensorFlow.
"""

from __future__ import annotations

from tfdist.lazy_names import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
