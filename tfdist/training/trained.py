"""A finished run, read back from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from tfdist.config.loader import load_config
from tfdist.config.schema import RunConfig
from tfdist.errors import ModelError
from tfdist.tasks.base import Task, Tokenizer, create_loss, create_metrics
from tfdist.tasks.registry import create_task
from tfdist.training.model import load_tokenizer
from tfdist.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedRun:
    """A run's configuration, and the model, tokenizer and labels that it has left."""

    config: RunConfig
    task: Task
    names: Sequence[str]
    tokenizer: Tokenizer
    model: keras.Model


def load_run(path: str | Path) -> TrainedRun:
    """Reads a run's best model, tokenizer, labels and configuration. Call it in the strategy's scope.

    Raises:
        ModelError: A part is missing or malformed, or the parts do not belong together.
        ConfigError: `run.yaml` is malformed.
    """
    folder = RunFolder.open(path)
    config = load_config(str(folder.config))
    names = folder.read_labels()
    tokenizer = load_tokenizer(config.model, folder.tokenizer)
    task = create_task(config.task)
    try:
        model = keras.saving.load_model(folder.best_model, compile=False)
    except Exception as error:  # for a damaged file Keras, zipfile and h5py raise all kinds of errors
        raise ModelError(
            f"{str(folder.best_model)!r} cannot be read as a Keras model: {_first_line(error)}. "
            "Train again, or copy the whole run folder again."
        ) from error
    _check_fit(folder, config, task, names, tokenizer, model)
    model.compile(loss=create_loss(), weighted_metrics=create_metrics())
    return TrainedRun(config, task, names, tokenizer, model)


def _check_fit(
    folder: RunFolder,
    config: RunConfig,
    task: Task,
    names: Sequence[str],
    tokenizer: Tokenizer,
    model: keras.Model,
) -> None:
    """Refuses a model that `run.yaml`, the labels or the tokenizer do not belong to."""
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != task.logits_rank or shape[-1] != len(names):
        raise ModelError(
            f"{str(folder.best_model)!r} is another model: its output has the shape {shape}, but "
            f"{config.task} with the {len(names)} labels of labels.json needs {task.logits_rank} "
            f"dimensions, the last of {len(names)}. Give the folder as `tfdist train` wrote it."
        )
    rows = next(int(v.shape[0]) for v in model.variables if v.name in ("token_embeddings", "embeddings"))
    if rows < tokenizer.vocab_size:
        raise ModelError(
            f"{str(folder.tokenizer)!r} is the tokenizer of another model: it has {tokenizer.vocab_size} "
            f"ids, the model's embedding {rows}. Give the folder as `tfdist train` wrote it."
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
