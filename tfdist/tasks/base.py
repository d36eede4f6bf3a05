"""What a task is: how examples become numbers, which head and loss learn them, and how the result is reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.contract import distribution_of
from tfdist.config.schema import DataConfig
from tfdist.data.batches import make_dataset
from tfdist.data.examples import Example
from tfdist.models.tokenizer import BertTokenizer, WordTokenizer
from tfdist.tasks.report import Report

Tokenizer = BertTokenizer | WordTokenizer


@dataclass(frozen=True)
class Encoded:
    """Tokenized examples.

    Attributes:
        ids: For each example, its token ids, int32 (length,).
        labels: int32 (examples,), or for each example int32 (length,) with -1 where nothing is to be learned; None if
            the examples have no labels.
        positions: For token tasks, for each example the place of each word's first piece, int (words,), or -1 for a
            word without a piece, such as one that was cut off. None for other tasks.
    """

    ids: list[np.ndarray]
    labels: np.ndarray | list[np.ndarray] | None
    positions: list[np.ndarray] | None = None


class Task(Protocol):
    """One kind of problem. A new task is one file with such a class, and one entry in `tasks.registry`."""

    name: ClassVar[str]
    logits_rank: ClassVar[int]

    def parse_line(self, line: str) -> Example:
        """Returns the example for a prediction, from one line of text."""
        ...

    def encode(
        self, examples: Sequence[Any], names: Sequence[str] | None, tokenizer: Tokenizer, max_length: int
    ) -> Encoded:
        """Tokenizes examples; if the label `names` are given, numbers their labels too."""
        ...

    def add_head(self, backbone: keras.Model, num_labels: int, dropout: float) -> keras.Model:
        """Returns a model that ends in float32 logits."""
        ...

    def report(
        self, examples: Sequence[Any], logits: np.ndarray, encoded: Encoded, names: Sequence[str]
    ) -> Report:
        """Scores predictions against the examples' own labels."""
        ...

    def describe(
        self, examples: Sequence[Any], logits: np.ndarray, encoded: Encoded, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Yields for each example the object that `tfdist predict` writes as one line of JSON."""
        ...


def create_loss() -> keras.losses.Loss:
    """Returns the cross-entropy from logits, the mean over all elements that have weight."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def create_metrics() -> list[keras.metrics.Metric]:
    """Returns the accuracy over all elements that have weight; give it to `compile` as `weighted_metrics`."""
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


def create_dataset(
    encoded: Encoded,
    tokenizer: Tokenizer,
    config: DataConfig,
    batch_size: int,
    model: keras.Model,
    *,
    with_labels: bool = True,
    shuffle: bool = False,
    seed: int = 0,
) -> tf.data.Dataset:
    """Returns batches for `fit` and `evaluate`, or, without labels, for `predict`.

    Batches for `predict` are all padded to the same length, because `predict` joins the token logits of all batches.

    Args:
        encoded: The examples.
        tokenizer: The tokenizer that has encoded them.
        config: Padding and lengths.
        batch_size: Examples in one batch, over all replicas.
        model: The model; the batches have its inputs, among `token_ids`, `segment_ids` and `padding_mask`.
        with_labels: Whether elements have labels.
        shuffle: Whether each epoch has an order of its own.
        seed: Seed of these orders.
    """
    whole = not with_labels and encoded.positions is not None
    longest = max(map(len, encoded.ids))
    step = _bucket_step(config, model)
    # There are few different lengths, since `predict` is compiled for each of them.
    same = min(config.max_length, math.ceil(longest / step) * step)
    inputs: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "token_ids": np.asarray,
        "segment_ids": np.zeros_like,
        "padding_mask": np.ones_like,
    }
    input_names = [tensor.name for tensor in model.inputs]
    pads = {"token_ids": tokenizer.pad_id, "segment_ids": 0, "padding_mask": 0}
    return make_dataset(
        [{name: inputs[name](ids) for name in input_names} for ids in encoded.ids],
        encoded.labels if with_labels else None,
        global_batch_size=batch_size,
        max_length=same if whole else config.max_length,
        pad_values={name: pads[name] for name in input_names},
        shuffle=shuffle,
        seed=seed,
        padding="fixed" if whole else config.padding,
        bucket_step=step,
    )


def _bucket_step(config: DataConfig, model: keras.Model) -> int:
    """Returns of what the lengths of batches are multiples, in tokens.

    Finer buckets have less padding and more shapes. Where a whole step is compiled for each shape, by XLA or DTensor,
    that takes longer than the padding does.
    """
    if config.bucket_step is not None:
        return config.bucket_step
    distribution = distribution_of(model.distribute_strategy)
    on_cpu = all(device.device_type == "CPU" for device in tf.config.get_visible_devices())
    steps_are_graphs = distribution is None or distribution.compiles_updates
    return 4 if on_cpu and steps_are_graphs and model.jit_compile is not True else 16


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities over the last axis, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(-1, keepdims=True)
    return probabilities
