"""The models and data that `tfdist bench` trains. Weights and data are drawn, so nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdist.models.bert import bert_classifier, build_bert
from tfdist.models.bert_config import BertConfig
from tfdist.models.mlp import build_mlp

# A compiled model's builder, and one batch of rows: inputs and labels.
Workload = tuple[Callable[[], keras.Model], Any, np.ndarray]
_CLASSES = 4


def _compiled(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> keras.Model:
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return model


def mlp(rows: int) -> Workload:
    """A perceptron 784-256-10 with Adam."""
    random = np.random.default_rng(0)
    x = random.random((rows, 784), np.float32)
    return lambda: _compiled(build_mlp(), keras.optimizers.Adam(1e-3)), x, random.integers(0, 10, rows)


def convnet(rows: int) -> Workload:
    """Three convolutions with batch normalization on images of 32x32x3, with Adam."""
    layers = keras.layers

    def build() -> keras.Model:
        x = inputs = keras.Input((32, 32, 3))
        for filters in (32, 64, 64):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.MaxPooling2D()(layers.Activation("relu")(layers.BatchNormalization()(x)))
        logits = layers.Dense(_CLASSES)(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x)))
        return _compiled(keras.Model(inputs, logits), keras.optimizers.Adam(1e-3))

    random = np.random.default_rng(0)
    return build, random.random((rows, 32, 32, 3), np.float32), random.integers(0, _CLASSES, rows)


def lstm(rows: int) -> Workload:
    """Embedding and LSTM of 64 units over 40 tokens, with Adam."""
    layers = keras.layers

    def build() -> keras.Model:
        hidden = [layers.Embedding(2000, 64), layers.LSTM(64), layers.Dense(_CLASSES)]
        model = keras.Sequential([keras.Input((40,), dtype="int32"), *hidden])
        return _compiled(model, keras.optimizers.Adam(1e-3))

    random = np.random.default_rng(0)
    return build, random.integers(1, 2000, (rows, 40), dtype=np.int32), random.integers(0, _CLASSES, rows)


def drawn_bert(rows: int, length: int, config: BertConfig) -> Workload:
    """A BERT with drawn weights on `length` tokens, with AdamW and clipping by the global norm."""

    def build() -> keras.Model:
        model = bert_classifier(build_bert(config), num_labels=_CLASSES)
        return _compiled(model, keras.optimizers.AdamW(5e-5, weight_decay=0.01, global_clipnorm=1.0))

    random = np.random.default_rng(0)
    # Few words come up often, as in texts: the gradient of the table has rows for these alone.
    ids = np.exp(random.random((rows, length)) * np.log(config.vocab_size)).astype(np.int32)
    x = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids * 0 + 1}
    return build, x, random.integers(0, _CLASSES, rows)


def bert(rows: int) -> Workload:
    """A BERT of 2 layers, hidden 128, on 32 tokens, with AdamW and clipping by the global norm."""
    config = BertConfig(
        vocab_size=8000,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=64,
    )
    return drawn_bert(rows, 32, config)


def minilm(rows: int) -> Workload:
    """A BERT of MiniLM's size (6 layers, hidden 384, 22.7 million weights) on 32 tokens, as `bert`."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return drawn_bert(rows, 32, config)
