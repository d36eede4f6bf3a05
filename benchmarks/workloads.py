"""The models and batches that are measured."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from tfdist.models.bert import bert_classifier, build_bert
from tfdist.models.bert_config import BertConfig
from tfdist.models.mlp import build_mlp


@dataclass(frozen=True)
class Workload:
    """One model with its batch size; `smoke` makes it tiny."""

    name: str
    global_batch_size: int
    smoke: bool = False

    def build(self) -> keras.Model:
        """Builds and compiles the model; call it in the strategy's scope."""
        if self.name == "mlp":
            model = build_mlp(hidden_units=16 if self.smoke else 256)
        else:
            size = {
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            }
            if not self.smoke:
                size = {
                    "hidden_size": 256,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 4,
                    "intermediate_size": 1024,
                }
            config = BertConfig(vocab_size=2000, max_position_embeddings=64, **size)
            model = bert_classifier(build_bert(config), num_labels=4)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"])
        return model

    def rows(self, num_steps: int) -> tuple[object, np.ndarray]:
        """Returns inputs and labels for `num_steps` batches."""
        count = num_steps * self.global_batch_size
        generator = np.random.default_rng(0)
        if self.name == "mlp":
            return generator.random((count, 784), np.float32), generator.integers(0, 10, count)
        length = 8 if self.smoke else 64
        ids = generator.integers(1, 2000, (count, length), dtype=np.int32)
        inputs = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids * 0 + 1}
        return inputs, generator.integers(0, 4, count)


def workloads(smoke: bool) -> list[Workload]:
    """Returns the two that the aims are stated for, of which a smoke run has the first."""
    return [Workload("mlp", 16, smoke)] if smoke else [Workload("mlp", 128), Workload("bert", 32)]
