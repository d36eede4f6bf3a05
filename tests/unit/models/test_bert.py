from __future__ import annotations

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hf_bert import CONFIG, random_inputs

from tfdist.errors import ModelError
from tfdist.models import BertConfig, bert_classifier, bert_token_classifier, build_bert
from tfdist.models.activations import ACTIVATIONS
from tfdist.models.bert_config import HIDDEN_ACTS
from tfdist.models.bert_layers import HeadProjection

TINY = BertConfig.from_dict(CONFIG)
INPUTS = random_inputs()


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(3)
    return build_bert(TINY)


def test_parameter_count_is_that_of_the_published_model():
    config = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    hidden, wide = 384, 1536
    block = 4 * (hidden * hidden + hidden) + 2 * hidden * wide + wide + hidden + 4 * hidden
    expected = (30522 + 512 + 2 + 2) * hidden + 6 * block + hidden * hidden + hidden
    assert expected == 22_713_216
    assert build_bert(config).count_params() == expected


def test_outputs_do_not_depend_on_what_padding_holds(encoder):
    other = {**INPUTS, "token_ids": np.where(INPUTS["padding_mask"], INPUTS["token_ids"], 5).astype("int32")}
    assert (other["token_ids"] != INPUTS["token_ids"]).any()
    real = INPUTS["padding_mask"].astype(bool)
    before, after = encoder.predict_on_batch(INPUTS), encoder.predict_on_batch(other)
    np.testing.assert_allclose(before["sequence_output"][real], after["sequence_output"][real], atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_row_without_any_token_gives_finite_outputs_and_gradients(dtype_policy, policy):
    dtype_policy(policy)
    model = build_bert(TINY)
    inputs = {**INPUTS, "padding_mask": np.zeros_like(INPUTS["padding_mask"])}
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True)
        loss = tf.add_n([tf.reduce_sum(tf.cast(value, "float32")) for value in outputs.values()])
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert np.isfinite(loss)
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)


def test_mixed_precision_keeps_float32_variables_and_stays_near(dtype_policy, encoder):
    expected = encoder.predict_on_batch(INPUTS)
    for policy, tolerance in (("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)):
        dtype_policy(policy)
        model = build_bert(TINY)
        model.set_weights(encoder.get_weights())
        outputs = model(INPUTS)
        compute_dtype = policy.removeprefix("mixed_")
        assert {v.dtype for v in model.trainable_variables} == {"float32"}
        assert all(
            keras.backend.standardize_dtype(value.dtype) == compute_dtype for value in outputs.values()
        )
        for name, value in outputs.items():
            np.testing.assert_allclose(np.asarray(tf.cast(value, "float32")), expected[name], atol=tolerance)
        assert bert_classifier(model, 3)(INPUTS).dtype == tf.float32


def test_dropout_is_in_all_places_and_only_in_training(encoder):
    np.testing.assert_array_equal(encoder(INPUTS)["pooled_output"], encoder(INPUTS)["pooled_output"])
    rates = [layer.rate for layer in encoder._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.1] * (1 + 3 * TINY.num_hidden_layers)
    first, second = (encoder(INPUTS, training=True)["sequence_output"].numpy() for _ in range(2))
    assert (first != second).any()


def test_exact_gelu_and_its_gradient():
    x = np.linspace(-6, 6, 101)
    probability = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = ACTIVATIONS["gelu"](inputs)
    np.testing.assert_allclose(outputs, x * probability, atol=1e-12)
    np.testing.assert_allclose(tape.gradient(outputs, inputs), probability + x * density, atol=1e-12)
    assert tuple(ACTIVATIONS) == HIDDEN_ACTS


def test_head_projection_equals_einsum_dense():
    x = np.random.default_rng(0).normal(size=(2, 5, 12)).astype("float32")
    projection = HeadProjection((3, 4), name="projection")
    einsum = keras.layers.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de")
    expected = einsum(x)
    projection.build(x.shape)
    projection.set_weights(einsum.get_weights())
    np.testing.assert_allclose(projection(x), expected, atol=1e-6)
    copy = HeadProjection.from_config(projection.get_config())
    assert copy.get_config() == projection.get_config()


def test_classifiers_train_and_the_token_head_leaves_the_pooler_out():
    for build, labels in (
        (bert_classifier, np.array([0, 1, 2])),
        (bert_token_classifier, np.zeros((3, 7), "int32")),
    ):
        model = build(build_bert(dataclasses.replace(TINY, num_hidden_layers=1)), num_labels=4)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        before = [v.numpy() for v in model.trainable_variables]
        model.fit(INPUTS, labels, batch_size=3, verbose=0)
        unmoved = [
            v.path
            for v, old in zip(model.trainable_variables, before, strict=True)
            if np.array_equal(v.numpy(), old)
        ]
        assert unmoved == []
        assert model(INPUTS).shape == (*labels.shape, 4)
    assert not [v for v in model.variables if "pooler" in v.path]


def test_save_load_and_export_give_the_same_outputs(tmp_path):
    model = bert_classifier(build_bert(TINY), num_labels=4, dropout=0.3)
    expected = model.predict_on_batch(INPUTS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(INPUTS), expected)
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())  # lists and tuples alike
    assert [v.path for v in loaded.trainable_variables] == [v.path for v in model.trainable_variables]
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(served.serve(INPUTS), expected, atol=1e-6)


def test_too_long_a_sequence_is_refused(encoder):
    with pytest.raises(ModelError, match="Given: 17. Allowed: at most 16"):
        encoder(random_inputs(length=17))


@pytest.mark.parametrize("build", [bert_classifier, bert_token_classifier])
def test_no_labels_are_refused(encoder, build):
    with pytest.raises(ModelError, match="num_labels must be at least 1. Given: 0"):
        build(encoder, num_labels=0)
