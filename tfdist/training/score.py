"""Loss, metrics and the table of classes on one split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from rich.console import Console

from tfdist.config.schema import DataConfig
from tfdist.data.examples import Example
from tfdist.tasks.base import Encoded, Task, Tokenizer, create_dataset
from tfdist.tasks.report import report_table


def score(
    model: keras.Model,
    task: Task,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    encoded: Encoded,
    names: Sequence[str],
    data: DataConfig,
    batch_size: int,
) -> dict[str, Any]:
    """Evaluates a compiled model. If there are several processes, all of them must call this.

    Returns:
        Loss and metrics by name, and under `report` the scores of each class.
    """
    dataset = create_dataset(encoded, tokenizer, data, batch_size, model)
    found = model.evaluate(dataset, verbose=0, return_dict=True)
    logits = _logits(model, encoded, tokenizer, data, batch_size)
    return {
        **{name: float(value) for name, value in found.items()},
        "report": task.report(examples, logits, encoded, names),
    }


def print_score(console: Console, found: dict[str, Any], split: str) -> None:
    """Prints what `score` returned."""
    console.print(", ".join(f"{split} {name} {found[name]:.4f}" for name in found if name != "report"))
    console.print(report_table(found["report"], f"{split} split"))


def describe(
    model: keras.Model,
    task: Task,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    names: Sequence[str],
    data: DataConfig,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """Yields for each example what the model predicts, ready for JSON."""
    encoded = task.encode(examples, None, tokenizer, data.max_length)
    return task.describe(examples, _logits(model, encoded, tokenizer, data, batch_size), encoded, names)


def _logits(
    model: keras.Model, encoded: Encoded, tokenizer: Tokenizer, data: DataConfig, batch_size: int
) -> Any:
    dataset = create_dataset(encoded, tokenizer, data, batch_size, model, with_labels=False)
    return model.predict(dataset, verbose=0)
