"""Operations of Keras's backend that a step may run in its own way: each patch asks the step by the operation's name.

A mesh has its own operations, in `mesh/operations/table.py`, because DTensor lacks layout rules for some or for their
gradients.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from keras.src import backend
from keras.src.backend.tensorflow import core as backend_core
from keras.src.backend.tensorflow import image as backend_image
from keras.src.backend.tensorflow import nn as backend_nn
from keras.src.backend.tensorflow import numpy as backend_numpy
from keras.src.layers import TimeDistributed

from tfdist._internals.contract import Step
from tfdist._internals.patch import Patch, in_step

_LAYOUT = "DTensor's rule takes batch-parallel inputs only, and whole kernels"
_GRADIENT = "DTensor has no layout rule for the gradient, and says so in the middle of the program"
_NONE = "DTensor has no layout rule for what stock makes it of"

# Name of the operation -> the owner and name of the stock function, and why a step may run it in its own way.
_OPERATIONS: dict[str, tuple[Any, str, str]] = {
    "conv": (backend_nn, "conv", _LAYOUT),
    "conv_transpose": (backend_nn, "conv_transpose", _LAYOUT),
    "max_pool": (backend_nn, "max_pool", _LAYOUT),
    "average_pool": (backend_nn, "average_pool", _GRADIENT),
    "adaptive_average_pool": (backend_nn, "adaptive_average_pool", _GRADIENT),
    "adaptive_max_pool": (backend_nn, "adaptive_max_pool", _LAYOUT),
    "depthwise_conv": (backend_nn, "depthwise_conv", _GRADIENT),
    "separable_conv": (backend_nn, "separable_conv", _GRADIENT),
    "concat": (
        tf,
        "concat",
        "DTensor splits the parts and joins their pieces, which puts columns in another order",
    ),
    "divide": (backend_numpy, "divide", "DTensor has no way to split the cond in which slices are divided"),
    "digitize": (backend_numpy, "digitize", _NONE),
    "pad": (backend_numpy, "pad", _LAYOUT),
    "split": (backend_numpy, "split", _LAYOUT),
    "take": (
        backend_numpy,
        "take",
        "DTensor gathers a table that is split by rows everywhere before a lookup",
    ),
    "flip": (backend_numpy, "flip", _NONE),
    "diag": (backend_numpy, "diag", _NONE),
    "scatter": (
        backend_core,
        "scatter",
        "DTensor makes the shape int32 whatever the indices are, which is invalid",
    ),
    "resize": (backend_image, "resize", _LAYOUT),
    "rnn": (backend, "rnn", "DTensor has no layout rules for the loops of recurrent layers"),
    "TimeDistributed": (TimeDistributed, "call", _LAYOUT),
}

NAMES = frozenset(_OPERATIONS)


def _run(name: str, step: Step, stock: Any, *args: Any, **kwargs: Any) -> Any:
    return step.op(name, stock, *args, **kwargs)


PATCHES = tuple(
    Patch(
        name="step.operations",
        owner=owner,
        attribute=attribute,
        make=in_step(functools.partial(_run, name)),
        reason=reason,
        upstream="https://github.com/keras-team/keras/issues/18473" if name == "rnn" else "no thread found",
    )
    for name, (owner, attribute, reason) in _OPERATIONS.items()
)
