"""Datasets of TensorFlow Datasets, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfdist.data.examples import Example, TaggedExample, TextExample
from tfdist.errors import DataError


def open_builder(path: str) -> Any:
    """Returns the prepared TFDS builder of `tfds:NAME`, `tfds:NAME:CONFIG` or `tfds:NAME/CONFIG`.

    If the data are not there yet, TFDS downloads and prepares them in its own folder (`TFDS_DATA_DIR`).

    Raises:
        DataError: If TFDS is not installed, knows no such dataset, or cannot prepare it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{path}: tensorflow-datasets is not installed. Install it: pip install 'tfdist[tfds]'"
        ) from error
    name = path.removeprefix("tfds:").replace(":", "/", 1)
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise DataError(f"{path}: TFDS has no such dataset or configuration: {error}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # a download, or a dataset's own code, may raise anything
        raise DataError(
            f"{path}: TFDS could not prepare it in {builder.data_dir}: {type(error).__name__}: {error}. "
            f"Prepare it once where there is a network (tfds build {name}), and set TFDS_DATA_DIR."
        ) from error
    return builder


def read_tfds(
    builder: Any, split: str, task: str, input_name: str, target_name: str
) -> Iterator[tuple[str, Example]]:
    """Yields the examples of one split in the order of their files; class numbers become their names.

    Published test splits hide their labels as class -1. Such examples have no label.

    Raises:
        DataError: If the dataset lacks a feature.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    for name in (input_name, target_name):
        if name not in features:
            raise DataError(
                f"tfds:{builder.info.full_name}: the feature {name!r} is missing; it has {sorted(features)}. "
                "Choose others with --set data.text_column=NAME and --set data.label_column=NAME."
            )
    target = getattr(features[target_name], "feature", features[target_name])
    name_of = getattr(
        target, "int2str", lambda value: value.decode() if isinstance(value, bytes) else str(value)
    )
    for number, record in enumerate(tfds.as_numpy(builder.as_dataset(split=split)), start=1):
        inputs, targets = record[input_name], record[target_name]
        where = f"tfds:{builder.info.full_name}/{split}, example {number}"
        if task == "token-classification":
            yield where, TaggedExample(tuple(t.decode() for t in inputs), tuple(name_of(t) for t in targets))
        else:
            yield where, TextExample(inputs.decode(), None if targets == -1 else name_of(targets))
