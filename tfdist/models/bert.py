"""BERT encoder and its heads, in the Hugging Face arithmetic, as a functional Keras model.

Each encoder block is one layer, so that a model can be cut between blocks. In the kernels of attention the heads are a
dimension of their own, so that these can be split by heads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras

from tfdist.errors import ModelError
from tfdist.models.bert_config import BertConfig


@keras.ops.custom_gradient
def _exact_gelu(x: Any) -> Any:
    """Returns x * P(X <= x) for a standard normal X; its gradient costs half as much as that through erf."""
    probability = 0.5 * (1.0 + keras.ops.erf(x * math.sqrt(0.5)))

    def gradient(upstream: Any) -> Any:
        density = keras.ops.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
        return upstream * (probability + x * density)

    return x * probability, gradient


def _tanh_gelu(x: Any) -> Any:
    return keras.ops.gelu(x, approximate=True)


_Shape = tuple[int | None, ...]

# One function for each of `bert_config.HIDDEN_ACTS`. Of the four "gelu", only the plain one is exact.
_ACTIVATIONS = {
    "gelu": _exact_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_approximate": _tanh_gelu,
    "relu": keras.ops.relu,
}


class _BertLayer(keras.layers.Layer):
    """A layer that a `BertConfig` describes, or the fields of one if the layer is loaded from a file."""

    def __init__(self, config: BertConfig | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config if isinstance(config, BertConfig) else BertConfig(**config)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "config": dataclasses.asdict(self.config)}

    def _initializer(self) -> keras.initializers.Initializer:
        return keras.initializers.TruncatedNormal(stddev=self.config.initializer_range)

    def _dense(self, units: int, name: str) -> keras.layers.Dense:
        return keras.layers.Dense(
            units, kernel_initializer=self._initializer(), dtype=self.dtype_policy, name=name
        )

    def _layer_norm(self, name: str) -> keras.layers.LayerNormalization:
        return keras.layers.LayerNormalization(
            epsilon=self.config.layer_norm_eps, dtype=self.dtype_policy, name=name
        )

    def _dropout(self, rate: float, name: str) -> keras.layers.Dropout:
        return keras.layers.Dropout(rate, dtype=self.dtype_policy, name=name)


@keras.saving.register_keras_serializable(package="tfdist")
class BertEmbeddings(_BertLayer):
    """Sum of token, position and segment embeddings, normalised: int32 (B, L), int32 (B, L) -> (B, L, H)."""

    def __init__(self, config: BertConfig | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.layer_norm = self._layer_norm("layer_norm")
        self.dropout = self._dropout(self.config.hidden_dropout_prob, "dropout")

    def build(self, token_ids_shape: _Shape, segment_ids_shape: _Shape) -> None:
        config = self.config
        for name, rows in (
            ("token_embeddings", config.vocab_size),
            ("position_embeddings", config.max_position_embeddings),
            ("segment_embeddings", config.type_vocab_size),
        ):
            setattr(
                self,
                name,
                self.add_weight(name=name, shape=(rows, config.hidden_size), initializer=self._initializer()),
            )
        self.layer_norm.build((*token_ids_shape, config.hidden_size))

    def call(self, token_ids: Any, segment_ids: Any, training: bool | None = None) -> Any:
        length = token_ids.shape[1]
        if length is not None and length > self.config.max_position_embeddings:
            raise ModelError(
                f"A sequence is longer than the model's positions. Given: {length}. Allowed: at most "
                f"{self.config.max_position_embeddings}. Shorten the texts (max_length)."
            )
        positions = self.position_embeddings[: keras.ops.shape(token_ids)[1]]
        # A matrix product is used because the gradient of a gather from so few rows is a slow, serial scatter.
        segments = keras.ops.one_hot(segment_ids, self.config.type_vocab_size, dtype=self.compute_dtype)
        x = keras.ops.take(self.token_embeddings, token_ids, axis=0) + positions
        x = x + keras.ops.matmul(segments, self.segment_embeddings)
        return self.dropout(self.layer_norm(x), training=training)

    def compute_output_spec(self, token_ids: Any, segment_ids: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor((*token_ids.shape, self.config.hidden_size), self.compute_dtype)


@keras.saving.register_keras_serializable(package="tfdist")
class HeadProjection(keras.layers.Layer):
    """A dense layer from the last `num_contracted` dimensions of its input to `output_dims`.

    It gives the same numbers as `keras.layers.EinsumDense`, by one flat matrix product. On static shapes that layer
    computes a batched product, which takes three times as long on a CPU.
    """

    def __init__(
        self,
        output_dims: Sequence[int],
        *,
        num_contracted: int = 1,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_dims = tuple(output_dims)
        self.num_contracted = num_contracted
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape: _Shape) -> None:
        shape = (*inputs_shape[-self.num_contracted :], *self.output_dims)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        self.bias = self.add_weight(name="bias", shape=self.output_dims, initializer="zeros")

    def call(self, inputs: Any) -> Any:
        return keras.ops.tensordot(inputs, self.kernel, self.num_contracted) + self.bias

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "output_dims": self.output_dims,
            "num_contracted": self.num_contracted,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="tfdist")
class BertAttention(_BertLayer):
    """Multi-head self-attention: (B, L, H) and int32 padding mask (B, L) -> (B, L, H)."""

    def __init__(self, config: BertConfig | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        config = self.config
        self.heads = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
        self.query, self.key, self.value = (
            self._projection(self.heads, 1, name) for name in ("query", "key", "value")
        )
        self.output_dense = self._projection((config.hidden_size,), 2, "output")
        self.dropout = self._dropout(config.attention_probs_dropout_prob, "dropout")

    def _projection(self, output_dims: tuple[int, ...], num_contracted: int, name: str) -> HeadProjection:
        return HeadProjection(
            output_dims,
            num_contracted=num_contracted,
            kernel_initializer=self._initializer(),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, inputs_shape: _Shape, padding_mask_shape: _Shape) -> None:
        for projection in (self.query, self.key, self.value):
            projection.build(inputs_shape)
        self.output_dense.build((*inputs_shape[:2], *self.heads))

    def _projected(self, inputs: Any) -> Any:
        """Returns query, key and value, each (B, heads, L, head_dim), as one product.

        One product has one gradient for the input. Devices that share the heads sum this one instead of three.
        """
        ops = keras.ops
        # Kernels are split by heads, so the dimension of the three comes after that of the heads:
        # (H, heads, 3, head_dim).
        parts = (self.query, self.key, self.value)
        kernel = ops.stack([part.kernel for part in parts], axis=2)
        bias = ops.stack([part.bias for part in parts], axis=1)
        projected = ops.transpose(ops.tensordot(inputs, kernel, 1) + bias, (3, 0, 2, 1, 4))
        return [ops.squeeze(part, 0) for part in ops.split(projected, 3)]

    def call(self, inputs: Any, padding_mask: Any, training: bool | None = None) -> Any:
        ops = keras.ops
        query, key, value = self._projected(inputs)
        # The query is scaled before the product, so that float16 scores cannot overflow.
        scores = ops.matmul(query * self.heads[1] ** -0.5, ops.transpose(key, (0, 1, 3, 2)))
        # The bias is finite, so that a row without any token gives a uniform distribution and not NaN. It is float32,
        # because the constant overflows float16.
        bias = (ops.cast(padding_mask, "float32")[:, None, None, :] - 1.0) * 1e9
        probabilities = ops.cast(ops.softmax(ops.cast(scores, "float32") + bias), self.compute_dtype)
        context = ops.matmul(self.dropout(probabilities, training=training), value)
        return self.output_dense(ops.transpose(context, (0, 2, 1, 3)))


@keras.saving.register_keras_serializable(package="tfdist")
class BertBlock(_BertLayer):
    """One post-norm encoder block: (B, L, H) and int32 padding mask (B, L) -> (B, L, H)."""

    def __init__(self, config: BertConfig | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        config = self.config
        self.attention = BertAttention(config, dtype=self.dtype_policy, name="attention")
        self.attention_dropout = self._dropout(config.hidden_dropout_prob, "attention_dropout")
        self.attention_norm = self._layer_norm("attention_norm")
        self.intermediate = self._dense(config.intermediate_size, "intermediate")
        self.output_dense = self._dense(config.hidden_size, "output")
        self.output_dropout = self._dropout(config.hidden_dropout_prob, "output_dropout")
        self.output_norm = self._layer_norm("output_norm")

    def build(self, inputs_shape: _Shape, padding_mask_shape: _Shape) -> None:
        self.attention.build(inputs_shape, padding_mask_shape)
        self.attention_norm.build(inputs_shape)
        self.intermediate.build(inputs_shape)
        self.output_dense.build((*inputs_shape[:2], self.config.intermediate_size))
        self.output_norm.build(inputs_shape)

    def call(self, inputs: Any, padding_mask: Any, training: bool | None = None) -> Any:
        x = self.attention(inputs, padding_mask, training=training)
        x = self.attention_norm(inputs + self.attention_dropout(x, training=training))
        hidden = _ACTIVATIONS[self.config.hidden_act](self.intermediate(x))
        return self.output_norm(x + self.output_dropout(self.output_dense(hidden), training=training))

    def compute_output_spec(self, inputs: Any, padding_mask: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor(inputs.shape, self.compute_dtype)


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
