"""Reading examples: every format, every layout, and the message for every kind of bad input."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from tfdist.config.schema import DataConfig
from tfdist.data.examples import TaggedExample, TextExample
from tfdist.data.sources import load_splits, split_of
from tfdist.errors import DataError

TEXT, TOKENS = "text-classification", "token-classification"
SHARED = Path(__file__).parents[4] / "shared" / "data"


def write_splits(folder: Path, files: dict[str, str | bytes]) -> DataConfig:
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return DataConfig(path=str(folder))


@pytest.mark.parametrize(
    "name, content",
    [
        ("train.tsv", 'text\tlabel\nGood film\tpos\n"A ""bad""\tone"\tneg\n'),
        ("train.csv", 'id,label,text\r\n1,pos,Good film\r\n\r\n2,neg,"A ""bad""\tone"\r\n'),
        (
            "train.jsonl",
            '{"text": "Good film", "label": "pos"}\n\n{"text": "A \\"bad\\"\\tone", "label": "neg"}',
        ),
        ("train.tsv", '\ufefftext\tlabel\nGood film\tpos\n"A ""bad""\tone"\tneg'),
    ],
    ids=["tsv", "csv", "jsonl", "byte-order-mark"],
)
def test_text_formats(tmp_path: Path, name: str, content: str) -> None:
    splits = load_splits(write_splits(tmp_path, {name: content}), TEXT)
    assert splits == {"train": [TextExample("Good film", "pos"), TextExample('A "bad"\tone', "neg")]}


@pytest.mark.parametrize(
    "name, content",
    [
        ("train.conll", "-DOCSTART- -X- O\n\nAnn B-per\nran O\n\n\nNo O"),
        ("train.conll", "Ann\tB-per\r\nran\tO\r\n\t\r\nNo\tO\r\n"),
        ("train.conll", "Ann NNP I B-per\nran VB I O\n \nNo UH I O\n"),
        ("train.jsonl", '{"tokens":["Ann","ran"],"tags":["B-per","O"]}\n{"tokens":["No"],"tags":["O"]}'),
    ],
    ids=["spaces", "tabs-crlf-lone-tab", "four-columns", "jsonl"],
)
def test_token_formats(tmp_path: Path, name: str, content: str) -> None:
    splits = load_splits(write_splits(tmp_path, {name: content}), TOKENS)
    assert splits == {
        "train": [TaggedExample(("Ann", "ran"), ("B-per", "O")), TaggedExample(("No",), ("O",))]
    }


def test_json_strings_may_hold_unicode_line_ends(tmp_path: Path) -> None:
    config = write_splits(tmp_path, {"train.jsonl": '{"text": "a\u2028b", "label": 3}\n'})
    assert load_splits(config, TEXT) == {"train": [TextExample("a\u2028b", "3")]}


def test_folder_of_splits_accepts_the_usual_names_and_other_files(tmp_path: Path) -> None:
    rows = "text\tlabel\na\tx\n"
    config = write_splits(
        tmp_path, {"train.tsv": rows, "dev.tsv": rows, "test.tsv": rows, "README.md": "hello"}
    )
    assert list(load_splits(config, TEXT)) == ["train", "validation", "test"]


def test_other_columns_and_format_by_configuration(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("".join(["sentence,kind\n", *(f"s{i},k\n" for i in range(40))]))
    config = DataConfig(
        path=str(tmp_path / "data.txt"), format="csv", text_column="sentence", label_column="kind"
    )
    assert load_splits(config, TEXT)["train"][0].label == "k"


def test_one_file_is_split_by_a_hash_of_the_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"text number {i}" for i in range(2000)]
    file = tmp_path / "all.tsv"
    file.write_text("text\tlabel\n" + "".join(f"{text}\tx\n" for text in texts))
    with caplog.at_level(logging.INFO, logger="tfdist"):
        splits = load_splits(DataConfig(path=str(file)), TEXT)
    assert "80/10/10" in caplog.text
    assert sorted(e.text for examples in splits.values() for e in examples) == sorted(texts)
    assert 0.77 < len(splits["train"]) / 2000 < 0.83 and 0.08 < len(splits["test"]) / 2000 < 0.12
    # Neither other rows, nor their order, nor the process move an example to another split.
    file.write_text("text\tlabel\n" + "".join(f"{text}\tx\n" for text in reversed(texts[::2])))
    fewer = load_splits(DataConfig(path=str(file)), TEXT)
    assert {e for e in fewer["test"]} == {e for e in splits["test"] if int(e.text.split()[-1]) % 2 == 0}
    # Recorded, so that no later version moves anybody's test examples into training.
    assert [text for text in "abcdefgh" if split_of(TextExample(text)) != "train"] == ["e"]


GOOD = "text\tlabel\na\tx\n"
BAD = {
    "empty file": (TEXT, {"train.tsv": ""}, ["'train'", "no example"]),
    "header alone": (TEXT, {"train.tsv": "text\tlabel\n"}, ["'train'", "no example"]),
    "empty split": (TEXT, {"train.tsv": GOOD, "test.tsv": "text\tlabel\n"}, ["'test'", "no example"]),
    "no split": (TEXT, {"all.tsv": GOOD}, ["no split in this folder", "all.tsv"]),
    "no training split": (TEXT, {"test.tsv": GOOD}, ["no split 'train'", "['test']"]),
    "split twice": (
        TEXT,
        {"train.tsv": GOOD, "dev.tsv": GOOD, "val.tsv": GOOD},
        ["twice", "dev.tsv", "val.tsv"],
    ),
    "split in two formats": (
        TEXT,
        {"train.tsv": GOOD, "train.csv": GOOD},
        ["twice", "train.csv", "train.tsv"],
    ),
    "missing shard": (TEXT, {"train-00001-of-00002.tsv": GOOD}, ["shards of 'train' are missing"]),
    "no header": (
        TEXT,
        {"train.tsv": "a film\tpos\n"},
        ["train.tsv:1", "'text' is missing", "['a film', 'pos']"],
    ),
    "misspelt column": (
        TEXT,
        {"train.tsv": "\ntexts\tlabel\na\tx\n"},
        ["train.tsv:2", "Did you mean 'texts'?", "--set data.text_column="],
    ),
    "missing label column": (
        TEXT,
        {"train.csv": "text,y\na,x\n"},
        ["train.csv:1", "--set data.label_column="],
    ),
    "column twice": (TEXT, {"train.csv": "text,text,label\na,b,x\n"}, ["train.csv:1", "more than once"]),
    "too many fields": (TEXT, {"train.csv": "text,label\na,x\nb, c,x\n"}, ["train.csv:3", "3 fields", "2"]),
    "line after a text of two lines": (
        TEXT,
        {"train.csv": 'text,label\n"a\nb",x\nc\n'},
        ["train.csv:4", "1 fields"],
    ),
    "open quote": (
        TEXT,
        {"train.tsv": 'text\tlabel\na\tx\n"b\tx\nc\tx\n'},
        ["train.tsv:3", "must end with one"],
    ),
    "empty label": (TEXT, {"train.tsv": "text\tlabel\na\t \n"}, ["train.tsv:2", "'label' is empty"]),
    "label only in test": (
        TEXT,
        {"train.tsv": GOOD, "test.tsv": "text\tlabel\na\tx\nb\ty\n"},
        ["test.tsv:3", "label 'y'", "not in 'train'", "['x']"],
    ),
    "invalid UTF-8": (TEXT, {"train.tsv": b"text\tlabel\nna\xefve\tx\n"}, ["train.tsv:2", "byte 13", "0xef"]),
    "malformed JSON": (
        TEXT,
        {"train.jsonl": '{"text": "a", "label": "x"}\n{"text": }'},
        ["train.jsonl:2", "column 10"],
    ),
    "JSON list": (TEXT, {"train.jsonl": '["a", "x"]\n'}, ["train.jsonl:1", "list", "object"]),
    "JSON without key": (TEXT, {"train.jsonl": '{"text": "a"}\n'}, ["train.jsonl:1", "'label' is missing"]),
    "JSON text is a number": (
        TEXT,
        {"train.jsonl": '{"text": 1, "label": "x"}\n'},
        ["train.jsonl:1", "a string"],
    ),
    "JSON label is null": (
        TEXT,
        {"train.jsonl": '{"text": "a", "label": null}\n'},
        ["train.jsonl:1", "None"],
    ),
    "JSON tokens are text": (
        TOKENS,
        {"train.jsonl": '{"tokens": "a", "tags": ["O"]}'},
        ["train.jsonl:1", "list"],
    ),
    "JSON tags too few": (TOKENS, {"train.jsonl": '{"tokens": ["a"], "tags": []}'}, ["1 tokens and 0 tags"]),
    "CoNLL line with three fields": (
        TOKENS,
        {"train.conll": "a\tO\nb c\tX\tO\n"},
        ["train.conll:2", "3 fields", "2 (as in line 1)"],
    ),
    "CoNLL line with one field": (TOKENS, {"train.conll": "word\n"}, ["train.conll:1", "at least two"]),
    "CoNLL line with an empty tag": (TOKENS, {"train.conll": "a\tO\nb\t\n"}, ["train.conll:2", "none empty"]),
    "tag only in test": (
        TOKENS,
        {"train.conll": "a O\n", "test.conll": "b O\n\nc B-x\n"},
        ["test.conll:3", "'B-x'"],
    ),
    "format of the other task": (TOKENS, {"train.tsv": GOOD}, ["tsv cannot hold", "conll, jsonl, tfrecord"]),
    "CoNLL for texts": (TEXT, {"train.conll": "a O\n"}, ["conll cannot hold", "tsv, csv, jsonl, tfrecord"]),
}


@pytest.mark.parametrize("task, files, parts", BAD.values(), ids=BAD.keys())
def test_bad_input(tmp_path: Path, task: str, files: dict[str, str | bytes], parts: list[str]) -> None:
    config = write_splits(tmp_path, files)
    with pytest.raises(DataError) as error:
        load_splits(config, task)
    assert str(tmp_path) in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name, content, parts",
    [
        ("absent.tsv", None, ["absent.tsv", "no such file"]),
        ("data.tvs", GOOD, ["unknown format", "Did you mean 'tsv'?", "--set data.format"]),
        ("data.tsv", "", ["no example in it"]),
    ],
)
def test_bad_single_file(tmp_path: Path, name: str, content: str | None, parts: list[str]) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as error:
        load_splits(DataConfig(path=str(tmp_path / name)), TEXT)
    for part in parts:
        assert part in str(error.value)


def test_no_path_is_refused() -> None:
    with pytest.raises(DataError, match="no data path"):
        load_splits(DataConfig(), TEXT)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    from tfdist.data.readers.text import read_text

    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


@pytest.mark.skipif(find_spec("chatterbot_corpus") is None, reason="chatterbot-corpus is not installed")
def test_chatterbot_topics() -> None:
    splits = load_splits(DataConfig(path="package:chatterbot-corpus"), TEXT)
    texts = [" ".join(e.text.casefold().split()) for examples in splits.values() for e in examples]
    assert len(texts) == len(set(texts)) > 1000
    labels = {split: {e.label for e in examples} for split, examples in splits.items()}
    assert len(labels["train"]) > 10 and labels["validation"] | labels["test"] <= labels["train"]
    # "Yes." is in three topics, and says nothing of any.
    assert "yes." not in texts


def test_package_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="there is package:chatterbot-corpus"):
        load_splits(DataConfig(path="package:other"), TEXT)
    with pytest.raises(DataError, match="cannot train token-classification"):
        load_splits(DataConfig(path="package:chatterbot-corpus"), TOKENS)
    empty = ModuleSpec("chatterbot_corpus", None, is_package=True)
    empty.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: empty)
    with pytest.raises(DataError, match=r"it has no data/english/\*.yml"):
        load_splits(DataConfig(path="package:chatterbot-corpus"), TEXT)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps chatterbot-corpus"):
        load_splits(DataConfig(path="package:chatterbot-corpus"), TEXT)


def test_text_is_read_without_tensorflow() -> None:
    code = "import sys, tfdist.data.sources; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
@pytest.mark.parametrize(
    "name, task, sizes", [("movie_reviews", TEXT, [8430, 1039, 1097]), ("wnut17", TOKENS, [3394, 1009, 1287])]
)
def test_published_data(name: str, task: str, sizes: list[int]) -> None:
    """The published counts of sentences."""
    splits = load_splits(DataConfig(path=str(SHARED / name)), task)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == sizes
