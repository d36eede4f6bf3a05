from __future__ import annotations

import json

import numpy as np
import pytest

from tfdist.errors import ModelError
from tfdist.models import BertTokenizer, WordTokenizer

VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "un",
    "##aff",
    "##able",
    "the",
    "u",
    ".",
    "s",
    "Film",
    "film",
]
TEXTS = ["The film", "unaffable!", ""]


def _write_vocab(folder, vocab=VOCAB, **settings):
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def tokenizer(tmp_path):
    return BertTokenizer.load(_write_vocab(tmp_path))


def _lists(arrays):
    assert all(array.dtype == np.int32 for array in arrays)
    return [array.tolist() for array in arrays]


def test_vocab_file(tokenizer):
    assert _lists(tokenizer.encode_texts(TEXTS)) == [[2, 8, 13, 3], [2, 5, 6, 7, 1, 3], [2, 3]]
    special = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id)
    assert special == (0, 1, 2, 3)
    assert tokenizer.vocab_size == len(VOCAB)


def test_case_is_kept_where_the_settings_say_so(tmp_path):
    tokenizer = BertTokenizer.load(_write_vocab(tmp_path, do_lower_case=False))
    assert _lists(tokenizer.encode_texts(["Film film"])) == [[2, 12, 13, 3]]


def test_truncation_keeps_the_ends_and_is_not_remembered(tokenizer):
    assert _lists(tokenizer.encode_texts(["unaffable film"], max_length=4)) == [[2, 5, 6, 3]]
    assert _lists(tokenizer.encode_texts(["unaffable film"])) == [[2, 5, 6, 7, 13, 3]]


@pytest.mark.parametrize("max_length", [-1, 0, 2])
def test_a_length_without_room_is_refused(tokenizer, max_length):
    with pytest.raises(ModelError, match=f"more than the 2 special tokens. Given: {max_length}"):
        tokenizer.encode_texts(TEXTS, max_length)


def test_words_keep_their_index(tokenizer):
    first, empty = tokenizer.encode_words([["The", "u.s.", "\x00", "unaffable"], []])
    assert first.ids.tolist() == [2, 8, 9, 10, 11, 10, 5, 6, 7, 3]
    assert first.word_index.tolist() == [-1, 0, 1, 1, 1, 1, 3, 3, 3, -1]
    assert (empty.ids.tolist(), empty.word_index.tolist()) == ([2, 3], [-1, -1])
    (cut,) = tokenizer.encode_words([["the", "unaffable"]], max_length=4)
    assert (cut.ids.tolist(), cut.word_index.tolist()) == ([2, 8, 5, 3], [-1, 0, 1, -1])
    assert cut.ids.dtype == cut.word_index.dtype == np.int32


def test_saved_file_is_preferred_and_its_own_lengths_are_ignored(tokenizer, tmp_path):
    folder = tmp_path / "saved"
    path = tokenizer.save(folder)
    assert [p.name for p in folder.iterdir()] == ["tokenizer.json"]
    stored = json.loads(path.read_text())
    stored["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    stored["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    path.write_text(json.dumps(stored))
    _write_vocab(folder, ["nothing"])
    assert _lists(BertTokenizer.load(folder).encode_texts(TEXTS)) == _lists(tokenizer.encode_texts(TEXTS))


def test_gives_the_reference_ids(minilm_reference, tmp_path):
    texts = json.loads((minilm_reference / "reference_texts.json").read_text())
    expected = np.load(minilm_reference / "reference_outputs.npz")["input_ids"]
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((minilm_reference / name).read_bytes())
    for folder in (minilm_reference, tmp_path):
        ids = BertTokenizer.load(folder).encode_texts(texts, max_length=48)
        padded = np.stack([np.pad(row, (0, 48 - len(row))) for row in ids])
        np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "No tokenizer in .*tokenizer.json or vocab.txt"),
        ({"tokenizer.json": b"{"}, "tokenizer.json is no tokenizer of the tokenizers library"),
        ({"tokenizer.json": b'{"model": 3}'}, "tokenizer.json is no tokenizer"),
        ({"vocab.txt": b""}, r"vocab.txt lacks the special tokens \[PAD\]"),
        ({"vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n"}, r"vocab.txt lacks the special tokens \[SEP\]"),
        ({"vocab.txt": b"[PAD]\na\na\n"}, "lists 1 tokens twice"),
        ({"vocab.txt": b"\xff\xfe"}, "cannot be read: 'utf-8'"),
        ({"vocab.txt": b"[PAD]\n", "tokenizer_config.json": b"{"}, "cannot be read"),
        ({"vocab.txt": b"[PAD]\n", "tokenizer_config.json": b"3"}, "cannot be read"),
    ],
)
def test_malformed_files(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        BertTokenizer.load(tmp_path)


def test_word_tokenizer_learns_the_most_frequent_words(tmp_path):
    tokenizer = WordTokenizer.train(["The film, the Film.", "a film the"], vocab_size=4)
    # The two special tokens, then by frequency ("film" and "the": three times each).
    assert tokenizer.vocab_size == 4
    assert (tokenizer.pad_id, tokenizer.unk_id) == (0, 1)
    (ids,) = tokenizer.encode_texts(["THE film, zebra"])
    assert sorted(ids[:2].tolist()) == [2, 3]
    assert ids[2:].tolist() == [1, 1]
    tokenizer.save(tmp_path)
    loaded = WordTokenizer.load(tmp_path)
    assert _lists(loaded.encode_texts(["The film", "a very long film"], max_length=2)) == [
        ids[:2].tolist(),
        [1, 1],
    ]
    (words,) = loaded.encode_words([["the", "film."]])
    assert words.word_index.tolist() == [0, 1, 1]


def test_word_tokenizer_does_not_depend_on_the_order_of_the_texts():
    texts = [f"word{i % 7} rare{i}" for i in range(50)]
    first, second = WordTokenizer.train(texts), WordTokenizer.train(texts[::-1])
    assert _lists(first.encode_texts(texts)) == _lists(second.encode_texts(texts))


def test_word_tokenizer_needs_its_file_and_special_tokens(tmp_path):
    with pytest.raises(ModelError, match="No tokenizer at .*tokenizer.json"):
        WordTokenizer.load(tmp_path)
    WordTokenizer.train(["a b"]).save(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer.json lacks the special tokens \[CLS\], \[SEP\]"):
        BertTokenizer.load(tmp_path)
