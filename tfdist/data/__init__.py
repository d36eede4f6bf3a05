"""Examples from files, packages and TFDS; labels; sharding; batches. Nothing here knows a strategy.

`load_splits` gives examples, and `label_names` and `encode` number their labels. A task tokenizes the examples, and
`make_dataset` turns them into a `tf.data.Dataset`.
"""

from __future__ import annotations

from tfdist.lazy_names import lazy_names

# Public name -> module. A module is loaded on first use, so that reading text files needs no TensorFlow.
_PUBLIC = {
    "TaggedExample": "examples",
    "TextExample": "examples",
    "choose_shard_policy": "sharding",
    "distribute": "service.distribute",
    "encode": "labels",
    "label_names": "labels",
    "load_splits": "sources",
    "make_dataset": "batches",
    "pad_batches": "static_shapes",
    "rows_dataset": "rows",
    "tfrecord_dataset": "sharding",
}

__all__ = list(_PUBLIC)
__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
