from __future__ import annotations

import keras
import pytest

from tfdist.models import BertConfig, bert_classifier, build_bert, build_bigru, build_mlp
from tfdist.sharding.automatic import automatic_layout

MESH = {"batch": 2, "model": 2}
BERT = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=16,
    max_position_embeddings=12,
)


def split(model):
    """The dimension that is split of each variable that is, by path."""
    layouts = {v.path: automatic_layout(v.path, tuple(v.shape), MESH) for v in model.trainable_variables}
    for path, layout in layouts.items():
        assert any(layout.axes) or layout.reason, path
    return {path: layout.axes.index("model") for path, layout in layouts.items() if any(layout.axes)}


def test_bert_splits_by_heads_and_columns_then_rows():
    found = split(bert_classifier(build_bert(BERT), num_labels=4))
    expected = {"embeddings/token_embeddings": 0}
    for index in range(2):
        layer = f"encoder_{index}"
        expected |= {f"{layer}/attention/{part}/kernel": 1 for part in ("query", "key", "value")}
        expected |= {f"{layer}/attention/{part}/bias": 0 for part in ("query", "key", "value")}
        # What is added after the all-reduce, such as the biases of the outputs, must not be split.
        expected |= {f"{layer}/attention/output/kernel": 0, f"{layer}/output/kernel": 0}
        expected |= {f"{layer}/intermediate/kernel": 1, f"{layer}/intermediate/bias": 0}
    assert found == expected


def test_mlp_splits_columns_then_rows():
    assert split(build_mlp()) == {"mlp/hidden/kernel": 1, "mlp/hidden/bias": 0, "mlp/logits/kernel": 0}


@pytest.mark.parametrize("name", ["LSTM", "GRU", "SimpleRNN"])
def test_a_recurrence_stays_whole_in_any_model(name):
    layer = getattr(keras.layers, name)(4)
    model = keras.Sequential([keras.Input((3, 8)), keras.layers.Bidirectional(layer), keras.layers.Dense(4)])
    assert list(split(model).values()) == [1]


def test_bigru_splits_its_vocabulary_and_no_recurrence():
    assert split(build_bigru(vocab_size=8, embedding_dim=4, units=2)) == {"embedding/embeddings": 0}


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 3, 2, 4), (None, None, None, "model")),
        ((4, 3), ("model", None)),
        ((6, 4), (None, "model")),
        ((4,), (None,)),
        ((), ()),
    ],
)
def test_any_other_variable_splits_its_last_dimension_that_divides(shape, axes):
    assert automatic_layout("conv2d/kernel", shape, MESH).axes == axes


def test_a_variable_that_nothing_divides_says_so():
    layout = automatic_layout("dense/kernel", (5, 3), MESH)
    assert layout == ((None, None), "none of [3, 5] is a multiple of 2")
    assert automatic_layout("query/kernel", (8, 3, 4), MESH).reason == "3 is not a multiple of 2"


def test_without_a_model_axis_nothing_is_split():
    assert automatic_layout("query/kernel", (8, 4, 4), {"batch": 2}) == ((None, None, None), "")
