"""TFRecord files as a source of examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from tfdist.config.schema import DataConfig
from tfdist.data.examples import TaggedExample, TextExample
from tfdist.data.sources import load_splits
from tfdist.errors import DataError

TEXT, TOKENS = "text-classification", "token-classification"


def record(**features: list[str | int | float | bytes]) -> bytes:
    def feature(values: list[str | int | float | bytes]) -> tf.train.Feature:
        if values and isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        if values and isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        raw = [value.encode() if isinstance(value, str) else value for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=raw))

    named = {name: feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write(path: Path, *records: bytes) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in records:
            writer.write(one)


def test_texts_in_numbered_shards(tmp_path: Path) -> None:
    write(tmp_path / "train-00001-of-00002.tfrecord", record(text=["naïve"], label=["b"]))
    write(
        tmp_path / "train-00000-of-00002.tfrecord",
        record(text=["a"], label=[3]),
        record(text=["c"], label=["b"]),
    )
    write(tmp_path / "test.tfrecord-00000-of-00001", record(text=["d"], label=[3]))
    assert load_splits(DataConfig(path=str(tmp_path)), TEXT) == {
        "train": [TextExample("a", "3"), TextExample("c", "b"), TextExample("naïve", "b")],
        "test": [TextExample("d", "3")],
    }


def test_tokens(tmp_path: Path) -> None:
    write(tmp_path / "train.tfrecord", record(tokens=["Ann", "ran"], tags=["B-per", "O"]))
    examples = load_splits(DataConfig(path=str(tmp_path)), TOKENS)["train"]
    assert examples == [TaggedExample(("Ann", "ran"), ("B-per", "O"))]


GOOD = record(text=["a"], label=["x"])


@pytest.mark.parametrize(
    "task, bad, parts",
    [
        (TEXT, b"\xff\xff", ["not a tf.train.Example"]),
        (
            TEXT,
            record(text=["a"], y=["x"]),
            ["'label' is missing", "['text', 'y']", "--set data.label_column"],
        ),
        (TEXT, record(text=["a", "b"], label=["x"]), ["2 texts and 1 labels"]),
        (TEXT, record(text=["a"], label=[0.5]), ["'label' is a float_list"]),
        (TEXT, record(text=[b"a\xff"], label=["x"]), ["byte 1 of 'text' is not valid UTF-8"]),
        (TOKENS, record(tokens=["a", "b"], tags=["O"]), ["2 tokens and 1 tags"]),
    ],
    # Not the bytes, whose order of keys changes from process to process.
    ids=["no record", "no label", "two texts", "a number", "no UTF-8", "two tokens"],
)
def test_bad_record(tmp_path: Path, task: str, bad: bytes, parts: list[str]) -> None:
    good = GOOD if task == TEXT else record(tokens=["a"], tags=["O"])
    write(tmp_path / "train.tfrecord", good, bad)
    with pytest.raises(DataError) as error:
        load_splits(DataConfig(path=str(tmp_path)), task)
    for part in ["train.tfrecord, record 2", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_damaged_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "train.tfrecord"
    write(path, GOOD, GOOD, GOOD)
    raw = path.read_bytes()
    at = len(raw) // 3 + 20
    path.write_bytes(raw[:-3] if damage == "cut off" else raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    where = "record 3" if damage == "cut off" else "record 2"
    with pytest.raises(DataError, match=f"train.tfrecord, {where}: the file is corrupt or cut off"):
        load_splits(DataConfig(path=str(tmp_path)), TEXT)
