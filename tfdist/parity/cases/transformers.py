"""Attention: a block of Keras layers, tfdist's BERT, and KerasHub's backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdist.models import BertConfig, bert_classifier, bert_token_classifier, build_bert
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, WIDE, case

VOCABULARY = 11
LENGTH = 6


def padded_ids(count: int) -> np.ndarray:
    """Returns int32 ids of shape (count, 6) of 2 to 6 tokens, padded with 0."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (count, LENGTH)).astype("int32")
    ids[np.arange(LENGTH)[None, :] >= np.random.default_rng(1).integers(2, LENGTH + 1, (count, 1))] = 0
    return ids


@case("transformers", on=NARROW, stands_for_family=True)
def attention(context: Context) -> dict[str, Any]:
    """Transformer block: attention with a padding mask, layer norms, AdamW; uneven batches."""

    def build() -> keras.Model:
        ids = keras.Input((LENGTH,), dtype="int32")
        embedded = keras.layers.Embedding(VOCABULARY, 8, mask_zero=True, name="token_embedding")(ids)
        # There are no biases: the gradient of the keys' bias is nothing but rounding, and Adam would make full steps of
        # it.
        attended = keras.layers.MultiHeadAttention(2, 4, use_bias=False)(embedded, embedded)
        hidden = keras.layers.LayerNormalization()(embedded + attended)
        # On a mesh these names get the rules of transformers. Embeddings are split by vocabulary. This layer stays
        # whole: DTensor cannot bring the gradient of columns that are added to whole rows into the layout of sharded
        # weights.
        mixed = keras.layers.Dense(8, activation="gelu", name="after_attention")(hidden)
        hidden = keras.layers.LayerNormalization()(hidden + mixed)
        return tiny.fix_weights(keras.Model(ids, keras.layers.Dense(tiny.CLASSES)(hidden[:, 0])))

    model = tiny.compiled(context, build, lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01))
    history = model.fit(
        padded_ids(29), tiny.rows(29)[1], batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0
    )
    return tiny.outcome(context, model, history)


def _tfdist_backbone(vocab_size: int = VOCABULARY, num_layers: int = 1) -> keras.Model:
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=8,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return build_bert(config)


def _tfdist_bert() -> keras.Model:
    return bert_classifier(_tfdist_backbone(), tiny.CLASSES, dropout=0.0)


def _hub_backbone(name: str) -> keras.Model:
    import keras_hub

    return getattr(keras_hub.models, name)(
        VOCABULARY,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.0,
        max_sequence_length=LENGTH,
    )


def _hub_bert() -> keras.Model:
    return bert_classifier(_hub_backbone("BertBackbone"), tiny.CLASSES, dropout=0.0)


def _hub_distil_bert() -> keras.Model:
    backbone = _hub_backbone("DistilBertBackbone")
    return keras.Model(backbone.input, keras.layers.Dense(tiny.CLASSES)(backbone.output[:, 0]))


def _features(ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": (ids > 0).astype("int32")}


def _encoder(context: Context, build: Callable[[], keras.Model], deviation: float = 0.5) -> dict[str, Any]:
    """Trains for 8 steps with clipping, as fine-tuning does, with padding and a last batch of one row."""
    model = tiny.compiled(
        context,
        lambda: tiny.fix_weights(build(), deviation=deviation),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=1.0),
        metrics=["accuracy"],
    )
    ids = padded_ids(37)
    features = {name: value for name, value in _features(ids).items() if name in model.input}
    history = model.fit(features, tiny.rows(37)[1], batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    predictions = model.predict(features, batch_size=tiny.BATCH, verbose=0)
    return tiny.outcome(context, model, history) | {"predict/all": predictions}


@case("transformers", on=WIDE)
def bert(context: Context) -> dict[str, Any]:
    """Tfdist's BERT classifier, momentum, clipping, uneven batches."""
    return _encoder(context, _tfdist_bert)


@case("transformers", on=NARROW)
def bert_tagger(context: Context) -> dict[str, Any]:
    """Tfdist's BERT with its head for tokens, padding without weight, a vocabulary that divides, uneven batches."""
    model = tiny.compiled(
        context,
        lambda: tiny.fix_weights(
            bert_token_classifier(_tfdist_backbone(VOCABULARY + 1, num_layers=2), tiny.CLASSES, dropout=0.0)
        ),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        weighted_metrics=["accuracy"],
    )
    ids = padded_ids(37)
    weights = (ids > 0).astype("float32")
    history = model.fit(
        _features(ids),
        ids % tiny.CLASSES,
        sample_weight=weights,
        batch_size=tiny.BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return tiny.outcome(context, model, history)


def _hub_gpt2() -> keras.Model:
    backbone = _hub_backbone("GPT2Backbone")
    return keras.Model(backbone.input, keras.layers.Dense(tiny.CLASSES)(backbone.output[:, -1]))


HUB: dict[str, Callable[[], keras.Model]] = {
    "bert": _hub_bert,
    "distil_bert": _hub_distil_bert,
    "gpt2": _hub_gpt2,
}


@case("transformers", each=HUB, on=NARROW, requires="keras_hub")
def keras_hub_backbone(context: Context, name: str) -> dict[str, Any]:
    """KerasHub's backbones unchanged, momentum, clipping, uneven batches."""
    # With larger weights, DistilBERT in float32 differs by 1e-5 from float64, on one device too.
    return _encoder(context, HUB[name], deviation=0.2)
