"""What the devices of a mesh exchange in a step, and layers whose pieces meet in it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

import tfdist
from tfdist.models.bert import bert_classifier, build_bert
from tfdist.models.bert_config import BertConfig
from tfdist.numerics import RELATIVE_TOLERANCE
from tfdist.parity.inspection import mesh_collectives

VOCABULARY, WIDTH, LENGTH = 64, 8, 3
MESH = {"batch": 2, "model": 2}


def ids(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (count, LENGTH), dtype=np.int32)


def tagger() -> keras.Model:
    """An embedding and logits for every id, as in a language model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH,), dtype="int32")
    hidden = keras.layers.Embedding(VOCABULARY, WIDTH, name="table")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(VOCABULARY, name="head")(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    return model


RULES = {"table/embeddings$": ("model", None), "head/kernel$": (None, "model"), "head/bias$": ("model",)}


def same_weights(model: keras.Model, alone: keras.Model) -> None:
    for weight, expected in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"shard_weights": True}])
def test_a_split_vocabulary_is_looked_up_and_lost_where_it_is(options) -> None:
    """Neither the table nor the logits are put together; the rows of a batch that does not divide, the same."""
    data = ids(21)
    alone = tagger()
    alone.fit(data, data[:, ::-1], batch_size=8, epochs=2, shuffle=False, verbose=0)
    with tfdist.create_strategy("mesh", mesh=MESH, layout_map=RULES, **options).scope():
        model = tagger()
    found = mesh_collectives(
        lambda: model.fit(data, data[:, ::-1], batch_size=8, epochs=2, shuffle=False, verbose=0)
    )
    same_weights(model, alone)
    forward = [one for one in found if one.part == "forward"]
    assert any("sparse_categorical_crossentropy" in one.name for one in forward)
    assert not any(one.shape[-1:] == (VOCABULARY,) for one in forward)
    if not options:
        assert (VOCABULARY, WIDTH) not in {one.shape for one in found}


def test_negative_ids_count_from_the_end_as_on_one_device() -> None:
    with tfdist.create_strategy("mesh", mesh=MESH, layout_map=RULES).scope():
        model = tagger()
    data = ids(8)
    np.testing.assert_allclose(
        model.predict(data - VOCABULARY, verbose=0), model.predict(data, verbose=0), atol=1e-6
    )


def test_a_transformer_layer_has_two_all_reduces_forward_and_two_backward() -> None:
    """Megatron-LM's count; query, key and value are one product, whose gradient reaches the input as one."""
    num_layers = 2
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=LENGTH,
    )
    with tfdist.create_strategy("mesh", mesh={"batch": 1, "model": 2}).scope():
        model = bert_classifier(build_bert(config), num_labels=2)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = ids(4)
    inputs = {"token_ids": tokens, "segment_ids": tokens * 0, "padding_mask": tokens * 0 + 1}
    found = mesh_collectives(lambda: model.fit(inputs, tokens[:, 0] % 2, batch_size=4, verbose=0))
    layers = [one for one in found if "encoder_" in one.name]
    backward = [one for one in layers if one.part == "backward"]
    assert len(layers) - len(backward) == 2 * num_layers
    assert len(backward) == 2 * num_layers
    assert len(found) - len(layers) == 1  # of the embeddings


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_columns_may_meet_whole_rows_under_sharded_weights(activation) -> None:
    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,))
        hidden = keras.layers.Dense(8, name="first")(inputs)
        columns = keras.layers.Dense(8, activation, name="up")(hidden)
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Add()([hidden, columns])))
        model.compile(keras.optimizers.Adam(0.05), "mse")
        return model

    data = np.random.default_rng(0).standard_normal((21, 8)).astype("float32")
    alone = build()
    rules = {"up/kernel$": (None, "model"), "up/bias$": ("model",)}
    with tfdist.create_strategy("mesh", mesh=MESH, layout_map=rules, shard_weights=True).scope():
        model = build()
    for each in (alone, model):
        each.fit(data, data[:, :1], batch_size=8, epochs=2, shuffle=False, verbose=0)
    same_weights(model, alone)


def test_no_variable_comes_to_the_host_in_a_step(monkeypatch) -> None:
    """What does is a flag for each step and the metrics' counts at the end of an epoch."""
    with tfdist.create_strategy("mesh", mesh=MESH, layout_map=RULES, shard_weights=True).scope():
        model = tagger()
    sizes: list[int] = []

    def unpack(value: tf.Tensor) -> list[tf.Tensor]:
        sizes.append(value.shape.num_elements())
        return dtensor_unpack(value)

    dtensor_unpack = dtensor.unpack
    monkeypatch.setattr(dtensor, "unpack", unpack)
    data = ids(24)
    model.fit(data, data, batch_size=8, verbose=0)
    assert len(sizes) >= 3 and set(sizes) == {1}
    model.get_weights()
    assert max(sizes) == VOCABULARY * WIDTH
