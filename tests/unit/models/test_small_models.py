from __future__ import annotations

import keras
import numpy as np
import pytest

from tfdist.errors import ModelError
from tfdist.models import build_bigru, build_mlp

IDS = np.array([[3, 4, 5, 0, 0], [6, 7, 8, 9, 2]], "int32")


def test_mlp_shape_and_parameters():
    model = build_mlp()
    assert model.count_params() == 784 * 256 + 256 + 256 * 10 + 10
    assert model(np.zeros((2, 784), "float32")).shape == (2, 10)
    assert build_mlp(num_features=3, hidden_units=4, num_classes=5).count_params() == 3 * 4 + 4 + 4 * 5 + 5


def test_bigru_shape_and_parameters():
    # Keras' GRU (reset_after) has two bias vectors for each gate.
    gru = 3 * (128 * 64 + 64 * 64 + 2 * 64)
    assert build_bigru().count_params() == 30000 * 128 + 2 * gru + 2 * 64 + 1


@pytest.mark.filterwarnings("error:The structure of `inputs`")
@pytest.mark.parametrize(("num_labels", "width"), [(2, 1), (5, 5)])
def test_bigru_head_and_padding(num_labels, width):
    model = build_bigru(vocab_size=11, embedding_dim=4, units=3, num_labels=num_labels)
    outputs = model.predict_on_batch(IDS)
    assert outputs.shape == (2, width)
    assert model.layers[-1].name == ("probability" if num_labels == 2 else "logits")
    assert num_labels > 2 or ((outputs > 0) & (outputs < 1)).all()
    # Neither more padding nor the form of the input changes anything.
    np.testing.assert_allclose(model.predict_on_batch(np.pad(IDS, ((0, 0), (0, 3)))), outputs, atol=1e-6)
    features = {"token_ids": IDS, "segment_ids": np.zeros_like(IDS), "padding_mask": np.sign(IDS)}
    np.testing.assert_array_equal(model.predict_on_batch(features), outputs)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_heads_are_float32_in_mixed_precision(dtype_policy, policy):
    dtype_policy(policy)
    for model, inputs in (
        (build_bigru(vocab_size=11, embedding_dim=4, units=3), IDS),
        (build_mlp(num_features=5), np.zeros((2, 5), "float32")),
    ):
        assert keras.backend.standardize_dtype(model(keras.ops.convert_to_tensor(inputs)).dtype) == "float32"
        assert {v.dtype for v in model.trainable_variables} == {"float32"}


@pytest.mark.filterwarnings("error:The structure of `inputs`")
def test_models_survive_a_file(tmp_path):
    for model, inputs in (
        (
            build_bigru(vocab_size=11, embedding_dim=4, units=3),
            {"token_ids": IDS, "padding_mask": np.sign(IDS)},
        ),
        (build_mlp(num_features=5), np.ones((2, 5), "float32")),
    ):
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.predict_on_batch(inputs), model.predict_on_batch(inputs))


def test_bigru_refuses_one_label():
    with pytest.raises(ModelError, match="num_labels must be at least 2. Given: 1"):
        build_bigru(num_labels=1)
