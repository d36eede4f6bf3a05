from __future__ import annotations

import importlib
import json
import logging

import keras
import numpy as np
import pytest
from hf_bert import numpy_bert, random_inputs, random_tensors, write_folder

from tfdist.errors import ModelError
from tfdist.models import load_bert

INPUTS = random_inputs()
TENSORS = random_tensors()


def _assert_agrees(model, tensors=TENSORS, act="gelu"):
    outputs = model.predict_on_batch(INPUTS)
    for name, expected in numpy_bert(tensors, INPUTS, act=act).items():
        np.testing.assert_allclose(outputs[name], expected, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_approximate", "relu"])
def test_agrees_with_an_independent_implementation(tmp_path, act):
    _assert_agrees(load_bert(write_folder(tmp_path, TENSORS, hidden_act=act)), act=act)


def test_exact_and_tanh_gelu_are_told_apart(tmp_path):
    model = load_bert(write_folder(tmp_path, TENSORS, hidden_act="gelu_new"))
    with pytest.raises(AssertionError):
        _assert_agrees(model, act="gelu")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_agrees_with_the_reference_outputs(minilm_reference, dtype):
    """Positions of padding, which nobody reads, turn rounding into 1e-4: there the exact values are compared."""
    reference = np.load(minilm_reference / "reference_outputs.npz")
    inputs = {
        "token_ids": reference["input_ids"],
        "segment_ids": reference["token_type_ids"],
        "padding_mask": reference["attention_mask"],
    }
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        outputs = load_bert(minilm_reference).predict_on_batch(inputs)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    compared = reference["attention_mask"] == 1 if dtype == "float32" else slice(None)
    np.testing.assert_allclose(
        outputs["sequence_output"][compared], reference["last_hidden_state"][compared], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(outputs["pooled_output"], reference["pooler_output"], rtol=0, atol=1e-4)


def test_prefix_old_names_and_known_extras(tmp_path, caplog):
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in TENSORS.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(16)[None]
    old["cls.predictions.bias"] = np.zeros(31, np.float32)
    with caplog.at_level(logging.INFO, "tfdist"):
        model = load_bert(write_folder(tmp_path, old))
    _assert_agrees(model)
    assert "not used by the encoder: cls.predictions.bias, embeddings.position_ids" in caplog.text


def test_float16_file_gives_float32_variables(tmp_path):
    half = {name: value.astype(np.float16) for name, value in TENSORS.items()}
    model = load_bert(write_folder(tmp_path, half))
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    _assert_agrees(model, half)


def test_bfloat16_file(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in TENSORS.items()}
    _assert_agrees(
        load_bert(write_folder(tmp_path, half)), {n: v.astype(np.float32) for n, v in half.items()}
    )


def test_absent_pooler_is_fresh_and_said(tmp_path, caplog):
    tensors = {name: value for name, value in TENSORS.items() if not name.startswith("pooler")}
    with caplog.at_level(logging.INFO, "tfdist"):
        model = load_bert(write_folder(tmp_path, tensors))
    assert "has no pooler" in caplog.text
    expected = numpy_bert(TENSORS, INPUTS)["sequence_output"]
    np.testing.assert_allclose(model.predict_on_batch(INPUTS)["sequence_output"], expected, atol=2e-5)


def test_dropout_takes_the_place_of_both_rates(tmp_path):
    model = load_bert(write_folder(tmp_path, TENSORS), dropout=0.0)
    np.testing.assert_array_equal(
        model(INPUTS, training=True)["pooled_output"], model(INPUTS)["pooled_output"]
    )


def _changed(name, value):
    tensors = {**TENSORS, name: value}
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (_changed(QUERY, None), f"lacks tensors that its config.json asks for: {QUERY}"),
        (_changed("pooler.dense.bias", None), "lacks tensors.*pooler.dense.bias"),
        (
            _changed("encoder.layer.2.output.dense.bias", np.zeros(12)),
            "does not ask for: encoder.layer.2.output.dense.bias",
        ),
        (
            _changed(QUERY, np.zeros((12, 8), np.float32)),
            rf"tensor {QUERY} does not fit config.json. Expected shape: \(12, 12\). Found: \(12, 8\)",
        ),
        (
            _changed("embeddings.word_embeddings.weight", np.zeros((30, 12), np.float32)),
            r"word_embeddings.weight does not fit.*\(31, 12\). Found: \(30, 12\)",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name_and_shape(tmp_path, tensors, message):
    with pytest.raises(ModelError, match=message):
        load_bert(write_folder(tmp_path, tensors))


def test_transposed_intermediate_is_refused_though_its_size_fits(tmp_path):
    name = "encoder.layer.0.intermediate.dense.weight"
    with pytest.raises(ModelError, match=r"Expected shape: \(20, 12\). Found: \(12, 20\)"):
        load_bert(write_folder(tmp_path, _changed(name, TENSORS[name].T)))


@pytest.mark.parametrize("num_bytes", [0, 5, 300, -1])
def test_truncated_weights_are_refused(tmp_path, num_bytes):
    path = write_folder(tmp_path, TENSORS) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ModelError, match="model.safetensors is not a whole safetensors file"):
        load_bert(tmp_path)


def test_missing_weights(tmp_path):
    (write_folder(tmp_path, TENSORS) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="No weights at .*model.safetensors. Found: pytorch_model.bin"):
        load_bert(tmp_path)


def test_malformed_config(tmp_path):
    (write_folder(tmp_path, TENSORS) / "config.json").write_text(json.dumps(["bert"]))
    with pytest.raises(ModelError, match="must hold a JSON object"):
        load_bert(tmp_path)


def test_absent_library_names_the_extra(tmp_path, monkeypatch):
    def absent(name, *args, **kwargs):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ModelError, match=r"'safetensors' is not installed.*pip install 'tfdist\[text\]'"):
        load_bert(write_folder(tmp_path, TENSORS))
