"""From label names to class numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfdist.data.examples import Example, TaggedExample
from tfdist.errors import DataError, did_you_mean


def labels_of(example: Example) -> tuple[str, ...]:
    """Returns the labels of one example: its tags, its one label, or nothing if it has none."""
    if isinstance(example, TaggedExample):
        return example.tags or ()
    return () if example.label is None else (example.label,)


def label_names(splits: Mapping[str, Iterable[Example]]) -> list[str]:
    """Returns the names of all labels in `splits`, sorted; the place of a label in this list is its class number."""
    return sorted(
        {label for examples in splits.values() for example in examples for label in labels_of(example)}
    )


def encode(examples: Sequence[Example], names: Sequence[str]) -> list[np.ndarray]:
    """Returns the class numbers of each example, as int32 of shape (number of labels of the example,).

    The shape is (1,) for a `TextExample` and (tokens,) for a `TaggedExample`. `np.concatenate` joins the former to the
    array that `make_dataset` takes.

    Raises:
        DataError: If an example has no label, or one that is not in `names`.
    """
    numbers = {name: number for number, name in enumerate(names)}
    encoded = []
    for position, example in enumerate(examples):
        labels = labels_of(example)
        if not labels:
            raise DataError(f"Example {position} has no label: {example}. Give every example a label.")
        unknown = next((label for label in labels if label not in numbers), None)
        if unknown is not None:
            raise DataError(
                f"Example {position} has the label {unknown!r}, which is none of {list(names)}."
                f"{did_you_mean(unknown, names)} Use the labels that the model was trained on."
            )
        encoded.append(np.array([numbers[label] for label in labels], dtype=np.int32))
    return encoded
