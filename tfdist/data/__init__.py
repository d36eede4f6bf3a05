"""Examples from files, packages and TFDS; labels; sharding; batches. Nothing here knows a strategy.

`load_splits` gives examples, and `label_names` and `encode` number their labels. A task tokenizes the examples, and
`make_dataset` turns them into a `tf.data.Dataset`.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name -> module. A module is loaded on first use, so that reading text files needs no TensorFlow.
_PUBLIC = {
    "TaggedExample": "examples",
    "TextExample": "examples",
    "choose_shard_policy": "sharding",
    "encode": "labels",
    "label_names": "labels",
    "load_splits": "sources",
    "make_dataset": "batches",
    "pad_batches": "static_shapes",
    "rows_dataset": "rows",
    "tfrecord_dataset": "sharding",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tfdist.data' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(f"tfdist.data.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
