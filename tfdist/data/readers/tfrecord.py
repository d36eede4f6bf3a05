"""TFRecord files of `tf.train.Example` with the features text and label, or tokens and tags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfdist.data.examples import Example, TaggedExample, TextExample
from tfdist.errors import DataError


def read_tfrecord(path: Path, task: str, input_name: str, target_name: str) -> Iterator[tuple[str, Example]]:
    """Yields the records of `path`; a label is a string or a whole number, tokens and tags are lists.

    Raises:
        DataError: If the file is corrupt or cut off, or a record lacks a feature or has one of the wrong kind.
    """
    number = 0
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), start=1):
            yield (
                f"{path}, record {number}",
                _example(f"{path}, record {number}", record, task, input_name, target_name),
            )
    except tf.errors.DataLossError as error:
        raise DataError(
            f"{path}, record {number + 1}: the file is corrupt or cut off ({error.message}). "
            "Write the file again, or copy it again from where it came."
        ) from error


def _example(where: str, record: bytes, task: str, input_name: str, target_name: str) -> Example:
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise DataError(f"{where}: not a tf.train.Example. Write records as tf.train.Example.") from error
    for name in (input_name, target_name):
        if name not in features:
            raise DataError(
                f"{where}: the feature {name!r} is missing; the record has {sorted(features)}. "
                "Choose others with --set data.text_column=NAME and --set data.label_column=NAME."
            )
    inputs, targets = (_values(where, name, features[name]) for name in (input_name, target_name))
    if task == "token-classification":
        if len(inputs) != len(targets) or not inputs:
            raise DataError(
                f"{where}: {len(inputs)} tokens and {len(targets)} tags; give one tag for each token."
            )
        return TaggedExample(inputs, targets)
    if len(inputs) != 1 or len(targets) != 1:
        raise DataError(f"{where}: {len(inputs)} texts and {len(targets)} labels; give one of each.")
    return TextExample(inputs[0], targets[0])


def _values(where: str, name: str, feature: tf.train.Feature) -> tuple[str, ...]:
    kind = feature.WhichOneof("kind")
    if kind == "int64_list":
        return tuple(str(value) for value in feature.int64_list.value)
    if kind != "bytes_list":
        raise DataError(f"{where}: the feature {name!r} is a {kind}; it must be a bytes_list or int64_list.")
    try:
        return tuple(value.decode("utf-8") for value in feature.bytes_list.value)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} of {name!r} is not valid UTF-8. Texts must be UTF-8."
        ) from error
