"""Layers whose operations DTensor can split over the batch alone get their inputs so, and their kernels whole.

An activation can reach them split over `model`, for example from a dense layer whose columns are. DTensor then fails in
the middle of the program with a message about its expander. What it cannot do at all is refused by the layer's name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow import image as backend_image
from keras.src.backend.tensorflow import nn as backend_nn
from keras.src.backend.tensorflow import numpy as backend_numpy
from keras.src.layers import Maximum, Minimum, TimeDistributed

from tfdist._internals.registry import Patch
from tfdist._internals.replica.step import current_step, on_mesh
from tfdist.errors import UnsupportedError


def by_batch(value: Any) -> Any:
    """Returns a tensor split over the batch axis of the mesh and nothing else; so is its gradient."""
    return _laid_out(value, _mesh_step().by_batch)


def whole(value: Any) -> Any:
    """Returns a tensor whole on every device; its gradient too."""
    return _laid_out(value, _mesh_step().everywhere)


def _mesh_step() -> Any:
    step = current_step()
    assert step is not None  # `on_mesh` was asked before
    return step


def _laid_out(value: Any, layout: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    value = tf.convert_to_tensor(value)
    if not value.dtype.is_floating:
        return layout(value)

    @tf.custom_gradient
    def identity(tensor: tf.Tensor) -> Any:
        return layout(tensor), layout

    return identity(value)


def _relaid(inputs: tuple[str, ...] = (), kernels: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    def make(stock: Any) -> Any:
        signature = inspect.signature(stock)

        @functools.wraps(stock)
        def function(*args: Any, **kwargs: Any) -> Any:
            if not on_mesh():
                return stock(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments
            given.update({name: tree.map_structure(by_batch, given[name]) for name in inputs})
            given.update({name: whole(given[name]) for name in kernels})
            # The output too: else DTensor carries the layout that the next operation wants into this one.
            return by_batch(stock(*bound.args, **bound.kwargs))

        return function

    return make


def _split(stock: Any) -> Any:
    def split(x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
        return stock(by_batch(x) if axis != 0 and on_mesh() else x, indices_or_sections, axis)

    return split


def _refused(instead: str) -> Callable[[Any], Any]:
    def make(stock: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            if on_mesh():
                raise UnsupportedError(
                    f"the mesh strategy cannot train the layer {tf.get_current_name_scope()!r}: DTensor has no layout "
                    f"rule for the gradient of {stock.__name__}. {instead}"
                )
            return stock(*args, **kwargs)

        return function

    return make


_RULES = "DTensor's rule takes batch-parallel inputs only, and whole kernels"
_NONE = "DTensor has no layout rule for the gradient, and says so in the middle of the program"


def _patch(owner: Any, attribute: str, make: Callable[[Any], Any], reason: str = _RULES) -> Patch:
    return Patch(
        name="mesh_layers",
        owner=owner,
        attribute=attribute,
        make=make,
        reason=reason,
        upstream="no thread found",
    )


_USE_CONV = "Use a Conv layer with strides, or 'mirrored'."

PATCHES = (
    _patch(backend_nn, "conv", _relaid(("inputs",), ("kernel",))),
    _patch(backend_nn, "conv_transpose", _relaid(("inputs",), ("kernel",))),
    _patch(backend_nn, "max_pool", _relaid(("inputs",))),
    _patch(backend_numpy, "pad", _relaid(("x",))),
    _patch(backend_numpy, "split", _split),
    _patch(backend_image, "resize", _relaid(("images",))),
    _patch(TimeDistributed, "call", _relaid(("inputs",))),
    _patch(Maximum, "_merge_function", _relaid(("inputs",))),
    _patch(Minimum, "_merge_function", _relaid(("inputs",))),
    _patch(backend_nn, "average_pool", _refused(_USE_CONV), _NONE),
    _patch(backend_nn, "depthwise_conv", _refused("Use a Conv layer, or 'mirrored'."), _NONE),
    _patch(backend_nn, "separable_conv", _refused("Use a Conv layer, or 'mirrored'."), _NONE),
)
