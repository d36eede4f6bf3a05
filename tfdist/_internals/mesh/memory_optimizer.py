"""TensorFlow's memory optimizer is off in a process that has a mesh.

It works out what a device holds from the shapes of whole variables where a device has a piece: it logs "Incompatible
Matrix dimensions" as an error for each product with a split kernel, hundreds of lines for a BERT, and whatever it
decides rests on wrong sizes. There is no public switch, and no upstream thread was found.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.eager import context


def switch_off_memory_optimizer() -> None:
    """Switches it off for the functions that are compiled from now on."""
    runtime = context.context()
    config = config_pb2.ConfigProto()
    if runtime._config is not None:
        config.CopyFrom(runtime._config)
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    runtime._config = config
    tf.config.optimizer.set_experimental_options({})  # makes this thread read the configuration again
