import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.data.examples import TaggedExample, TextExample
from tfdist.models.bert import bert_classifier, build_bert
from tfdist.models.bert_config import BertConfig
from tfdist.models.tokenizer import BertTokenizer
from tfdist.training.export import difference, export_model, word_piece_function, write_saved_model
from tfdist.training.model import _train_word_pieces
from tfdist.training.run_folder import RunFolder

TEXTS = [
    "Plain words, with punctuation!",
    "ÜBER café naïve Ångström",
    "tabs\tand  spaces \n lines",
    "漢字 kanji",
    "hyphen-ated 3.14 $5 'quoted'",
    "",
    "many " * 50,
]
NAMES = ["a", "b", "c"]
needs_tensorflow_text = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_text") is None, reason="tensorflow-text is not installed"
)


@pytest.fixture
def tokenizer() -> BertTokenizer:
    return _train_word_pieces(TEXTS)


@pytest.fixture
def run(tmp_path, tokenizer) -> tuple[RunFolder, keras.Model]:
    folder = RunFolder.create(tmp_path / "run")
    tokenizer.save(folder.tokenizer)
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = bert_classifier(build_bert(BertConfig(vocab_size=tokenizer.vocab_size, **sizes)), len(NAMES))
    model.save(folder.best_model)
    return folder, model


def inputs(rows: list[np.ndarray]) -> dict[str, tf.Tensor]:
    ids = tf.ragged.stack(rows).to_tensor()
    return {
        "token_ids": ids,
        "segment_ids": tf.zeros_like(ids),
        "padding_mask": tf.cast(ids > 0, tf.int32),
    }


@needs_tensorflow_text
def test_both_saved_models_give_the_probabilities_of_the_model(run, tokenizer):
    folder, model = run
    lines = list(export_model(folder, tokenizer, NAMES, 16, [TextExample(text) for text in TEXTS]))
    assert [line.partition(":")[0] for line in lines] == [
        "SavedModel from token ids",
        "SavedModel from raw text",
    ]
    batch = inputs(tokenizer.encode_texts(TEXTS, 16))
    expected = keras.ops.softmax(model(batch))
    for path, arguments in ((folder.export, batch), (folder.export_text, {"texts": tf.constant(TEXTS)})):
        served = tf.saved_model.load(path).signatures["serving_default"](**arguments)
        np.testing.assert_allclose(served["probabilities"], expected, atol=1e-6)
        assert [name.decode() for name in served["labels"].numpy()] == NAMES


@needs_tensorflow_text
@pytest.mark.parametrize("max_length", [5, 16, 128])
def test_the_exported_tokenizer_gives_the_same_ids(run, tokenizer, max_length):
    tokenize = word_piece_function(run[0].tokenizer, max_length)
    assert difference(tokenize, tokenizer, TEXTS, max_length) is None


def test_a_difference_is_told_with_its_text(tokenizer):
    def other(texts):
        return tf.ragged.constant([[1]] * len(texts))

    assert difference(other, tokenizer, ["many"], 16) == "tensorflow-text gives other ids for 'many'"


def test_raw_text_is_left_out_for_words(run, tokenizer):
    folder, _ = run
    lines = list(export_model(folder, tokenizer, NAMES, 16, [TaggedExample(("a",), ("O",))]))
    assert lines[1] == "SavedModel from raw text: left out, only for whole texts and word pieces"
    assert folder.export.is_dir() and not folder.export_text.exists()


def test_raw_text_is_left_out_without_tensorflow_text(run, tokenizer, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines = list(export_model(run[0], tokenizer, NAMES, 16, [TextExample("a")]))
    assert lines[1] == "SavedModel from raw text: left out, tensorflow-text is not installed"


def test_a_model_with_one_input(tmp_path):
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    embedded = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, len(NAMES))(token_ids))
    write_saved_model(keras.Model(token_ids, embedded), NAMES, tmp_path / "export")
    signature = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    assert list(signature.structured_input_signature[1]) == ["token_ids"]
    assert signature(token_ids=tf.ones([2, 3], tf.int32))["probabilities"].shape == (2, 3)
