"""Models of KerasHub, as a user's script builds them, for `tfdist.bench.contestant`; weights and data are drawn."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
import numpy as np

from tfdist.bench.models import Workload

LENGTH, VOCABULARY, CLASSES = 32, 8000, 4
SIZE = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 128,
    "intermediate_dim": 512,
}


def bert(rows: int) -> Workload:
    """KerasHub's BERT of 2 layers, hidden 128, classifying texts of 32 tokens, with AdamW."""
    return _workload(keras_hub.models.BertBackbone, rows)


def gpt2(rows: int) -> Workload:
    """KerasHub's GPT-2 of 2 layers, hidden 128, that predicts the next of 32 tokens, with AdamW."""
    return _workload(keras_hub.models.GPT2Backbone, rows)


def _workload(backbone: type[keras.Model], rows: int) -> Workload:
    is_causal = backbone is keras_hub.models.GPT2Backbone

    def build() -> keras.Model:
        body: Any = backbone(**SIZE, max_sequence_length=LENGTH)
        if is_causal:
            outputs = body.token_embedding(body.output, reverse=True)
        else:
            outputs = keras.layers.Dense(CLASSES)(body.output["pooled_output"])
        model = keras.Model(body.input, outputs)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(5e-5, global_clipnorm=1.0), loss, metrics=["accuracy"])
        return model

    random = np.random.default_rng(0)
    ids = random.integers(1, VOCABULARY, (rows, LENGTH), dtype=np.int32)
    x = {"token_ids": ids, "padding_mask": ids * 0 + 1}
    if not is_causal:
        x["segment_ids"] = ids * 0
    return build, x, np.roll(ids, -1, axis=1) if is_causal else random.integers(0, CLASSES, rows)
