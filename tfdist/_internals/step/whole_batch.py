"""A loss that is no mean over rows is computed on the rows of all parts.

Dice and Tversky are ratios of sums over a batch, Circle compares each row with all others, and an own loss may do
anything. The mean of such a loss over the replicas' rows is another number than the loss of the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import tree
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.losses import loss as loss_module
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.metrics.reduction_metrics import MeanMetricWrapper

from tfdist._internals.contract import Step, step_scope
from tfdist._internals.patch import Patch, in_step

_MARK = "_tfdist_whole_batch"

# Losses of Keras that are no mean over rows if their axis, by default this one, is that of the rows. None is all axes.
_AXES = {
    keras.losses.dice: None,
    keras.losses.tversky: None,
    keras.losses.cosine_similarity: -1,
    keras.losses.categorical_crossentropy: -1,
    keras.losses.categorical_focal_crossentropy: -1,
}
_ALWAYS = (keras.losses.circle,)


def mark(loss: Any) -> Any:
    """Marks a loss, a class of losses or a function as one that needs the whole batch, and returns it.

    A function is returned in another, which gathers the rows wherever it is called.
    """
    if not isinstance(loss, (type, loss_module.Loss)):
        return _marked_function(loss)
    setattr(loss, _MARK, True)
    owner = loss if isinstance(loss, type) else type(loss)
    for base in owner.__mro__:
        if "__call__" in vars(base) and not base.__module__.startswith("keras.src."):
            _called(base).apply()
    return loss


def _marked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    def gathered(step: Step, stock: Any, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
        return on_whole_batch(
            step, lambda y_true, y_pred, _: stock(y_true, y_pred, *args, **kwargs), y_true, y_pred
        )

    marked = in_step(gathered)(function)
    setattr(marked, _MARK, True)
    return marked


def needs_whole_batch(loss: Any, y_pred: Any) -> bool:
    """Returns whether a loss, an object or a function, is marked or is known to be no mean over rows.

    Args:
        loss: A `keras.losses.Loss` or a function.
        y_pred: What it is given: tensors whose rank tells whether an axis is that of the rows.
    """
    if getattr(loss, _MARK, False):
        return True
    is_wrapper = isinstance(loss, LossFunctionWrapper)
    function = loss.fn if is_wrapper else loss
    if getattr(function, _MARK, False):
        return True
    return any(
        mixes_rows(function, loss._fn_kwargs if is_wrapper else {}, len(leaf.shape))
        for leaf in tree.flatten(y_pred)
    )


def mixes_rows(function: Any, options: dict[str, Any], rank: int) -> bool:
    """Returns whether a function of Keras with these options is no mean over the rows of tensors of this rank."""
    if function in _ALWAYS:
        return True
    if function not in _AXES:
        return False
    axis = options.get("axis", _AXES[function])
    axes = range(rank) if axis is None else axis if isinstance(axis, (list, tuple)) else (axis,)
    return any(axis % rank == 0 for axis in axes)


def on_whole_batch(
    step: Step, call: Callable[..., Any], y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    """Returns `call(y_true, y_pred, sample_weight)` on the rows of all parts; of a value for each row, the own rows."""
    whole = step.whole_batch()
    if whole is step:
        return call(y_true, y_pred, sample_weight)
    masks = [get_keras_mask(leaf) for leaf in tree.flatten(y_pred)]
    y_true, y_pred, sample_weight, masks = _gathered(step, (y_true, y_pred, sample_weight, masks))
    for leaf, mask in zip(tree.flatten(y_pred), masks, strict=True):
        if mask is not None:
            set_keras_mask(leaf, mask)
    with step_scope(whole):
        value = call(y_true, y_pred, sample_weight)
    return value if len(value.shape) == 0 else step.own_rows(value)


def _gathered(step: Step, nested: Any) -> Any:
    leaves = [leaf if leaf is None else tf.convert_to_tensor(leaf) for leaf in tree.flatten(nested)]
    by_row = [index for index, leaf in enumerate(leaves) if leaf is not None and leaf.shape.rank != 0]
    for index, rows in zip(by_row, step.gather_rows([leaves[index] for index in by_row]), strict=True):
        leaves[index] = rows
    return tree.pack_sequence_as(nested, leaves)


def _if_needed(step: Step, stock: Any, loss: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    call = functools.partial(stock, loss)
    if not needs_whole_batch(loss, y_pred):
        return call(y_true, y_pred, sample_weight)
    return on_whole_batch(step, call, y_true, y_pred, sample_weight)


def _in_metric(
    step: Step, stock: Any, metric: Any, y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    """Lets a metric that is made of a function of Keras, as `metrics=[keras.losses.dice]`, see the whole batch."""
    function = metric._fn
    if step.is_whole or isinstance(function, loss_module.Loss) or not needs_whole_batch(function, y_pred):
        return stock(metric, y_true, y_pred, sample_weight)
    metric._fn = _marked_function(function)
    try:
        return stock(metric, y_true, y_pred, sample_weight)
    finally:
        metric._fn = function


def _called(owner: Any) -> Patch:
    return Patch(
        name="step.whole_batch",
        owner=owner,
        attribute="__call__",
        make=in_step(_if_needed),
        reason="a loss that is no mean over rows is averaged over the replicas: Dice, Tversky, Circle and own ones",
        upstream="no thread found",
    )


PATCHES = (
    _called(loss_module.Loss),
    Patch(
        name="step.whole_batch",
        owner=MeanMetricWrapper,
        attribute="update_state",
        make=in_step(_in_metric),
        reason="the same function as a metric is averaged over the replicas too",
        upstream="no thread found",
    ),
)
