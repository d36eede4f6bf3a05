"""The layers of a BERT encoder, in the Hugging Face arithmetic.

Each encoder block is one layer, so that a model can be cut between blocks. In the kernels of attention the heads are a
dimension of their own, so that these can be split by heads. In training XLA compiles what stands between the products
(`compiled_parts`); it gives the same up to rounding, and masks of dropout from another generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from tfdist.errors import ModelError
from tfdist.models import compiled_parts, counter_random
from tfdist.models.activations import ACTIVATIONS
from tfdist.models.bert_config import BertConfig
from tfdist.models.counter_random import Key

_Shape = tuple[int | None, ...]


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

    def _is_compiled(self, training: bool | None) -> bool:
        # What is exported for serving has no programs of XLA, which not every server can run.
        return bool(training) and self.compute_dtype != "float64" and compiled_parts.are_on()

    def _dropped(self, dropout: keras.layers.Dropout, x: Any, training: bool | None) -> Any:
        """Returns what plain operations keep of `x`: in training the same elements as a compiled part does."""
        if training and dropout.rate and counter_random.are_used():
            return counter_random.dropped(x, dropout.rate, _key(dropout))
        return dropout(x, training=training)


def _key(dropout: keras.layers.Dropout) -> Key:
    if not dropout.rate:
        return counter_random.no_key()
    return counter_random.next_key(dropout.seed_generator)


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
        if not self._is_compiled(training):
            return self._dropped(self.dropout, self.layer_norm(x), training)
        return compiled_parts.norm_dropout(
            x,
            self.layer_norm.gamma,
            self.layer_norm.beta,
            rate=self.dropout.rate,
            epsilon=self.layer_norm.epsilon,
            key=_key(self.dropout),
        )

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

    def product(self, inputs: Any) -> Any:
        """Returns the output without the bias."""
        return keras.ops.tensordot(inputs, self.kernel, self.num_contracted)

    def call(self, inputs: Any) -> Any:
        return self.product(inputs) + self.bias

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
        return self.product(inputs, padding_mask, training) + self.output_dense.bias

    def product(self, inputs: Any, padding_mask: Any, training: bool | None = None) -> Any:
        """Returns the output without its bias."""
        ops = keras.ops
        query, key, value = self._projected(inputs)
        # The query is scaled before the product, so that float16 scores cannot overflow.
        scores = ops.matmul(query * self.heads[1] ** -0.5, ops.transpose(key, (0, 1, 3, 2)))
        # The bias is finite, so that a row without any token gives a uniform distribution and not NaN. It is float32,
        # because the constant overflows float16.
        bias = (ops.cast(padding_mask, "float32")[:, None, None, :] - 1.0) * 1e9
        if self._is_compiled(training):
            kept = compiled_parts.softmax_dropout(
                scores, bias, rate=self.dropout.rate, key=_key(self.dropout)
            )
        else:
            probabilities = ops.cast(ops.softmax(ops.cast(scores, "float32") + bias), self.compute_dtype)
            kept = self._dropped(self.dropout, probabilities, training)
        context = ops.matmul(kept, value)
        return self.output_dense.product(ops.transpose(context, (0, 2, 1, 3)))


def _added(
    product: Any,
    bias: Any,
    residual: Any,
    dropout: keras.layers.Dropout,
    norm: keras.layers.LayerNormalization,
) -> Any:
    """Returns the normalized sum of a residual and of what is kept of a product and its bias, by one program."""
    return compiled_parts.dropout_residual_norm(
        product,
        bias,
        residual,
        norm.gamma,
        norm.beta,
        rate=dropout.rate,
        epsilon=norm.epsilon,
        key=_key(dropout),
    )


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
        if self._is_compiled(training):
            return self._compiled(inputs, padding_mask)
        x = self.attention(inputs, padding_mask, training=training)
        x = self.attention_norm(inputs + self._dropped(self.attention_dropout, x, training))
        hidden = ACTIVATIONS[self.config.hidden_act](self.intermediate(x))
        return self.output_norm(x + self._dropped(self.output_dropout, self.output_dense(hidden), training))

    def _compiled(self, inputs: Any, padding_mask: Any) -> Any:
        matmul = keras.ops.matmul
        x = self.attention.product(inputs, padding_mask, training=True)
        x = _added(x, self.attention.output_dense.bias, inputs, self.attention_dropout, self.attention_norm)
        if self.config.hidden_act == "gelu":
            hidden = compiled_parts.bias_gelu(matmul(x, self.intermediate.kernel), self.intermediate.bias)
        else:
            hidden = ACTIVATIONS[self.config.hidden_act](self.intermediate(x))
        product = matmul(hidden, self.output_dense.kernel)
        return _added(product, self.output_dense.bias, x, self.output_dropout, self.output_norm)

    def compute_output_spec(self, inputs: Any, padding_mask: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor(inputs.shape, self.compute_dtype)
