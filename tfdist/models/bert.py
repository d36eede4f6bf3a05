"""BERT encoder and its heads as functional Keras models."""

from __future__ import annotations

import keras

from tfdist.errors import ModelError
from tfdist.models.bert_config import BertConfig
from tfdist.models.bert_layers import BertBlock, BertEmbeddings


def build_bert(config: BertConfig) -> keras.Model:
    """Builds the encoder of "BERT: Pre-training of Deep Bidirectional Transformers" (Devlin et al., 2019).

    Returns:
        A functional model from a dict of int32 `token_ids`, `segment_ids` and `padding_mask` (1 for a token,
        0 for padding), each of shape (B, L), to a dict of `sequence_output` (B, L, H) and `pooled_output`
        (B, H), in the compute dtype of the dtype policy in force.
    """
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("token_ids", "segment_ids", "padding_mask")
    }
    x = BertEmbeddings(config, name="embeddings")(inputs["token_ids"], inputs["segment_ids"])
    for index in range(config.num_hidden_layers):
        x = BertBlock(config, name=f"encoder_{index}")(x, inputs["padding_mask"])
    initializer = keras.initializers.TruncatedNormal(stddev=config.initializer_range)
    pooler = keras.layers.Dense(
        config.hidden_size, activation="tanh", kernel_initializer=initializer, name="pooler"
    )
    return keras.Model(inputs, {"sequence_output": x, "pooled_output": pooler(x[:, 0, :])}, name="bert")


def _with_head(backbone: keras.Model, output: str, num_labels: int, dropout: float, name: str) -> keras.Model:
    if num_labels < 1:
        raise ModelError(f"num_labels must be at least 1. Given: {num_labels}.")
    initializer = keras.initializers.TruncatedNormal(stddev=0.02)
    x = keras.layers.Dropout(dropout, name="classifier_dropout")(backbone.output[output])
    # Logits are float32 under every policy: losses on half-precision logits lose small probabilities.
    logits = keras.layers.Dense(num_labels, kernel_initializer=initializer, dtype="float32", name="logits")(x)
    return keras.Model(backbone.input, logits, name=name)


def bert_classifier(backbone: keras.Model, num_labels: int, dropout: float = 0.1) -> keras.Model:
    """Puts a sequence classification head on the pooled output: float32 logits of shape (B, num_labels).

    The backbone is a model of `build_bert` or `load_bert`, or any model with the same input and output names, such as
    KerasHub's.
    """
    return _with_head(backbone, "pooled_output", num_labels, dropout, "bert_classifier")


def bert_token_classifier(backbone: keras.Model, num_labels: int, dropout: float = 0.1) -> keras.Model:
    """Puts a token classification head on the sequence output: float32 logits of shape (B, L, num_labels).

    The pooler is no part of this model, because nothing would train it.
    """
    return _with_head(backbone, "sequence_output", num_labels, dropout, "bert_token_classifier")
