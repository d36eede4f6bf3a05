"""Names of rows that a `predict_step` of the user's own passes through, so that predictions can be told apart."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NO_MESH, case

COUNT = 2 * tiny.BATCH + 1


class Named(keras.Model):
    """Predicts beside the logits the name of each row, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = tiny.dense()

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs["features"])

    def predict_step(self, data: Any) -> Any:
        (inputs,) = data if isinstance(data, tuple) else (data,)
        return {"logits": self(inputs), "name": inputs["name"], "words": inputs["words"]}


@case("predictions", refused_by=NO_MESH)
def row_names(context: Context) -> dict[str, Any]:
    """Strings of every length, empty ones and bytes that are no text among them, come back in the order of the rows."""
    names = [f"row {index} " + "ä" * (index % 5) for index in range(COUNT)]
    words = [[b"", bytes([index, 0, 255]), b"x" * index] for index in range(COUNT)]
    inputs = {"features": tiny.rows(COUNT)[0], "name": np.asarray(names), "words": np.asarray(words, object)}
    with context.scope():
        model = Named()
    data = tf.data.Dataset.from_tensor_slices((inputs,)).batch(tiny.BATCH)
    found = model.predict(data, verbose=0)
    return {
        "predict/logits": found["logits"],
        "exact/name": found["name"].astype("S"),
        "exact/words": np.asarray([[word.hex() for word in row] for row in found["words"]]),
    }
