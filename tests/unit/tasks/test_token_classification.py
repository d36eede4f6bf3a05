import importlib.util

import keras
import numpy as np
import pytest

from tfdist.config.schema import DataConfig
from tfdist.data.examples import TaggedExample
from tfdist.errors import ConfigError
from tfdist.models.tokenizer import WordTokenizer
from tfdist.tasks.base import create_dataset, create_loss
from tfdist.tasks.token_classification import TokenClassification

NAMES = ["B-loc", "I-loc", "O"]
EXAMPLES = [
    # "\x00" is a control character, which the tokenizer drops: a word without any piece.
    TaggedExample(("unbelievable", "Paris", "\x00", "is", "big"), ("O", "B-loc", "I-loc", "O", "O")),
    TaggedExample(("big", "Paris"), ("B-loc", "I-loc")),
]


def logits_of(encoded, tags) -> np.ndarray:
    """Logits that say `tags` at the first pieces and B-loc, which is wrong, everywhere else."""
    logits = np.zeros((len(encoded.ids), max(map(len, encoded.ids)), len(NAMES)))
    logits[..., 0] = 5.0
    for row, places, words in zip(logits, encoded.positions, tags, strict=True):
        for place, tag in zip(places, words, strict=True):
            if place >= 0:
                row[place] = 10.0 * np.eye(3)[NAMES.index(tag)]
    return logits


def test_the_first_piece_of_a_word_carries_its_tag(tokenizer):
    encoded = TokenClassification().encode(EXAMPLES, NAMES, tokenizer, 16)
    #                                  [CLS] un ##believ ##able paris is big [SEP]
    assert encoded.ids[0].tolist() == [2, 7, 8, 9, 4, 5, 6, 3]
    assert encoded.labels[0].tolist() == [-1, 2, -1, -1, 0, 2, 2, -1]
    assert encoded.positions[0].tolist() == [1, 4, -1, 5, 6]
    assert encoded.labels[1].tolist() == [-1, 0, 1, -1]


def test_words_that_are_cut_off_have_no_place(tokenizer):
    encoded = TokenClassification().encode(EXAMPLES, NAMES, tokenizer, 6)
    assert encoded.ids[0].tolist() == [2, 7, 8, 9, 4, 3]
    assert encoded.positions[0].tolist() == [1, 4, -1, -1, -1]
    assert encoded.labels[0].tolist() == [-1, 2, -1, -1, 0, -1]


def test_report_counts_entities_and_words_that_were_cut_off(tokenizer):
    task = TokenClassification()
    truth = [example.tags for example in EXAMPLES]
    whole = task.encode(EXAMPLES, NAMES, tokenizer, 16)
    # The word without a piece is told as O, so its entity ends one word early, and is wrong.
    report = task.report(EXAMPLES, logits_of(whole, truth), whole, NAMES)
    assert report["loc"] == {"precision": 0.5, "recall": 0.5, "f1-score": 0.5, "support": 2}
    cut = task.encode(EXAMPLES, NAMES, tokenizer, 3)  # [CLS], one piece, [SEP]
    report = task.report(EXAMPLES, logits_of(cut, truth), cut, NAMES)
    assert report["micro avg"] == {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 2}


def test_a_right_prediction_scores_one(tokenizer):
    task, examples = TokenClassification(), EXAMPLES[1:]
    encoded = task.encode(examples, NAMES, tokenizer, 16)
    report = task.report(examples, logits_of(encoded, [examples[0].tags]), encoded, NAMES)
    assert report["loc"] == {"precision": 1.0, "recall": 1.0, "f1-score": 1.0, "support": 1}


def test_tags_that_are_no_entities_are_scored_word_by_word(tokenizer):
    task, names = TokenClassification(), ["noun", "verb"]
    examples = [TaggedExample(("Paris", "is"), ("noun", "verb"))]
    encoded = task.encode(examples, names, tokenizer, 16)
    logits = np.zeros((1, 4, 2))
    logits[0, 1:3, 0] = 1.0
    assert task.report(examples, logits, encoded, names)["noun"]["precision"] == 0.5


def test_description(tokenizer):
    task = TokenClassification()
    assert task.parse_line(" big  Paris ") == TaggedExample(("big", "Paris"))
    examples = [task.parse_line("big Paris is"), task.parse_line("")]
    encoded = task.encode(examples, None, tokenizer, 4)
    big, empty = task.describe(examples, logits_of(encoded, [["O", "B-loc", "O"], []]), encoded, NAMES)
    assert big["text"] == "big Paris is" and big["tokens"] == ["big", "Paris", "is"]
    assert big["tags"] == ["O", "B-loc", "O"]
    assert big["probabilities"][:2] == pytest.approx([1.0, 1.0], abs=1e-3) and big["probabilities"][2] is None
    assert empty == {"text": "", "tokens": [], "tags": [], "probabilities": []}


def test_an_empty_sentence_has_one_id_even_without_special_tokens():
    tokenizer = WordTokenizer.train(["a b"])
    encoded = TokenClassification().encode([TaggedExample(())], None, tokenizer, 5)
    assert encoded.ids[0].tolist() == [tokenizer.unk_id]


def test_batches_weigh_first_pieces_alone_and_their_loss_is_finite(tokenizer):
    encoded = TokenClassification().encode(EXAMPLES, NAMES, tokenizer, 16)
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    model = keras.Model({"token_ids": token_ids}, keras.layers.Embedding(20, len(NAMES))(token_ids))
    config = DataConfig(max_length=16, bucket_step=8)
    [(x, y, weight)] = create_dataset(encoded, tokenizer, config, 2, model)
    assert weight.numpy().sum() == 6  # words with a piece
    assert y.numpy().min() == 0
    loss = create_loss()
    expected = loss(y[weight > 0], model(x)[weight > 0])
    assert float(loss(y, model(x), sample_weight=weight)) == pytest.approx(float(expected), rel=1e-6)
    [x] = create_dataset(encoded, tokenizer, config, 2, model, with_labels=False)
    assert x["token_ids"].shape == (2, 8)


def test_seqeval_is_asked_for_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="seqeval, which is not installed. .*pip install 'tfdist\\[text\\]'"
    ):
        TokenClassification()
