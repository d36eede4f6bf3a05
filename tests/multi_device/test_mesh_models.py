"""Models on a mesh: batches without rows, the slots of optimizers, and layers that belong into the dataset."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.errors import DataError, UnsupportedError
from tfdist.numerics import RELATIVE_TOLERANCE


def mesh(**options: Any) -> tf.distribute.Strategy:
    return tfdist.create_strategy("mesh", mesh={"batch": 2, "model": 2}, **options)


def rows(count: int = 21) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, 8)).astype("float32"), generator.integers(0, 4, count)


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(4)])


def test_a_batch_without_rows_gives_no_predictions_and_is_not_trained_on() -> None:
    with mesh().scope():
        model = build()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    parts = [rows(4), rows(0), rows(3)]
    spec = (tf.TensorSpec((None, 8)), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=spec)
    assert model.predict(data, verbose=0).shape == (7, 4)
    assert model.predict_on_batch(rows(0)[0]).shape == (0, 4)
    with pytest.raises(DataError, match="a batch has no rows"):
        model.evaluate(data, verbose=0)


def test_rules_are_not_for_the_vectors_of_an_optimizer() -> None:
    """Adafactor gives the kernels' names to vectors."""

    def fitted(strategy: tf.distribute.Strategy) -> keras.Model:
        with strategy.scope():
            model = build()
            model.compile(keras.optimizers.Adafactor(0.01), "mse")
        model.fit(rows()[0], np.ones((21, 4), "float32"), batch_size=8, shuffle=False, verbose=0)
        return model

    model, alone = (
        fitted(mesh(shard_weights=True, layout_map={"kernel": (None, "model")})),
        fitted(tf.distribute.get_strategy()),
    )
    assert model.layers[0].kernel.value.axes == ("batch", "model")
    for weight, expected in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=RELATIVE_TOLERANCE)


def test_layers_of_preprocessing_are_sent_to_the_dataset() -> None:
    with mesh().scope():
        lookup = keras.layers.IntegerLookup(vocabulary=[3, 5, 7])
        model = keras.Sequential([keras.Input((2,), dtype="int64"), lookup, keras.layers.Embedding(4, 4)])
    with pytest.raises(UnsupportedError, match=r"such as IntegerLookup, in dataset\.map"):
        model.predict(np.full((4, 2), 3), verbose=0)


def language_model(strategy: tf.distribute.Strategy) -> Any:
    keras_hub = pytest.importorskip("keras_hub")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        backbone = keras_hub.models.GPT2Backbone(
            24,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
            dropout=0.0,
            max_sequence_length=8,
        )
        model = keras_hub.models.GPT2CausalLM(backbone)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.05), loss, sampler="greedy")
    return model


def test_a_language_model_generates_what_it_does_on_one_device_and_is_exported(tmp_path) -> None:
    ids = np.random.default_rng(0).integers(1, 24, (6, 8)).astype("int32")
    prompt = {"token_ids": ids, "padding_mask": (np.arange(8) < 3).astype("int32") * np.ones_like(ids)}
    models = [language_model(mesh()), language_model(tf.distribute.get_strategy())]
    for model in models:
        for _ in range(2):  # what was compiled before an update must not keep its weights
            model.fit(
                {**prompt, "padding_mask": np.ones_like(ids)}, np.roll(ids, -1, 1), batch_size=6, verbose=0
            )
            model.generate(prompt, stop_token_ids=None)
    found, expected = (model.generate(prompt, stop_token_ids=None)["token_ids"] for model in models)
    np.testing.assert_array_equal(found, expected)
    models[0].export(str(tmp_path / "exported"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    served = loaded.serve(prompt)
    np.testing.assert_allclose(served, models[0].predict(prompt, verbose=0), atol=1e-5)


def test_export_in_the_scope_is_refused(tmp_path) -> None:
    strategy = mesh()
    with strategy.scope():
        model = build()
        with pytest.raises(UnsupportedError, match="Call it after the scope"):
            model.export(str(tmp_path / "exported"))
