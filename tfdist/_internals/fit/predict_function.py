"""Predictions without padding, in the order of the rows, on every worker."""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import tree
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, concat

from tfdist._internals.contract import Distribution
from tfdist._internals.fit.execution.compiled import compiled
from tfdist._internals.patch import Patch, of_model
from tfdist._internals.processes.watch import shared_step
from tfdist._internals.rows import row_errors


def _make(distribution: Distribution, stock: Any, model: Any, force: bool = False) -> Any:
    if model.predict_function is not None and not force:
        return model.predict_function

    predict = distribution.predictor(model, functools.partial(compiled, model))

    def predict_function(batches: list[Any]) -> Any:
        outputs = []
        for batch in batches:
            with shared_step(), row_errors():
                outputs.append(predict(distribution.place(batch)))
        return outputs[0] if len(outputs) == 1 else tree.map_structure(lambda *parts: concat(parts), *outputs)

    model.predict_function = predict_function
    return predict_function


def _export(distribution: Distribution, stock: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    return stock(distribution.portable(model), *args, **kwargs)


PATCHES = (
    Patch(
        name="fit.predict_function",
        owner=TensorFlowTrainer,
        attribute="make_predict_function",
        make=of_model(_make),
        reason="predict_on_batch returns every row once for each replica; padding rows would be returned",
        upstream="no thread found",
    ),
    Patch(
        name="fit.predict_function",
        owner=keras.Model,
        attribute="export",
        make=of_model(_export),
        reason="a variable of a mesh is a DTensor, which a SavedModel cannot hold",
        upstream="no thread found",
    ),
)
