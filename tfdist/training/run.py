"""One training run, from its configuration to the files in its folder.

Under several processes all make the same calls in the same order; only the chief writes and prints.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from tfdist._internals.processes.coordination import agree, barrier, broadcast_json, report_failure
from tfdist.callbacks.early_stopping import EarlyStopping
from tfdist.callbacks.model_checkpoint import ModelCheckpoint
from tfdist.callbacks.tensorboard import TensorBoard
from tfdist.callbacks.throughput import Throughput
from tfdist.config.loader import config_to_dict, config_to_yaml, fingerprint
from tfdist.config.schema import RunConfig
from tfdist.data.examples import Example
from tfdist.data.labels import label_names
from tfdist.data.service.distribute import distribute
from tfdist.data.sources import load_splits
from tfdist.errors import ConfigError, TfdistError
from tfdist.files import disk_errors_explained, replacing, write_json, write_text
from tfdist.process import is_chief
from tfdist.strategies.factory import create_strategy
from tfdist.tasks.base import Tokenizer, create_dataset, create_loss, create_metrics
from tfdist.tasks.registry import create_task
from tfdist.training.announcement import announcement
from tfdist.training.arithmetic import Steps, batch_size_of, count_steps
from tfdist.training.encoding import Encodings
from tfdist.training.export import export_model
from tfdist.training.fitting import fit_steps
from tfdist.training.model import create_model, create_tokenizer
from tfdist.training.optimizer import create_optimizer
from tfdist.training.run_folder import RunFolder
from tfdist.training.score import print_score, score

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def train(config: RunConfig) -> dict[str, Any]:
    """Trains, scores and exports what `config` says.

    Returns:
        What `metrics.json` holds: `history` and, where there is a test split, `test`.

    Raises:
        TfdistError: The configuration, data, model, cluster or output folder is not usable.
    """
    # Texts repeat tokens. Their rows get the gradient that JAX and PyTorch give, unless the options say otherwise.
    # Nobody expects the bits of plain Keras here, so that a large update is compiled under one device too.
    options = {"repeated_rows": "sum", "compiled_update": "auto", **config.strategy.options}
    strategy = create_strategy(config.strategy.name, **options)
    try:
        with contextlib.ExitStack() as stack:
            return _train(config, strategy, stack)
    except Exception as error:
        report_failure(f"{type(error).__name__}: {error}")
        raise


def _train(
    config: RunConfig, strategy: tf.distribute.Strategy, stack: contextlib.ExitStack
) -> dict[str, Any]:
    if not config.data.path:
        raise ConfigError("No data was given. Name a file, a folder or tfds:NAME with --data.")
    agree("the configuration of the run", fingerprint(config))
    batch_size = batch_size_of(config.training, strategy.num_replicas_in_sync)
    folder = _create_folder(config.output)
    keras.utils.set_random_seed(config.training.seed)
    keras.config.set_dtype_policy(PRECISIONS[config.training.precision])

    task = create_task(config.task)
    splits = load_splits(config.data, config.task)
    agree("the examples and their labels", _digest(splits))
    names = label_names(splits)
    tokenizer = create_tokenizer(config.model, splits["train"])
    # The thread tokenizes while the model is made, and the test split while the model is trained.
    encoded = stack.enter_context(Encodings(strategy, task, splits, names, tokenizer, config.data))

    steps = count_steps(config.training, len(splits["train"]), batch_size)
    accumulation = config.training.gradient_accumulation_steps
    with strategy.scope():
        model = create_model(config.model, task, tokenizer, len(names))
        model.compile(
            optimizer=create_optimizer(config.optimizer, steps.num_updates(accumulation), accumulation),
            loss=create_loss(),
            weighted_metrics=create_metrics(),
            steps_per_execution=config.training.steps_per_execution,
        )
        # If the optimizer made its variables in the first step, TensorFlow would trace that step twice.
        model.optimizer.build(model.trainable_variables)
    console = Console(quiet=not is_chief())
    console.print(announcement(config, strategy, model, splits, names, steps))

    with disk_errors_explained(folder.path):
        if is_chief():
            _write_description(folder, config, names, tokenizer)
        history = _fit(config, folder, model, tokenizer, encoded, batch_size, steps)
        metrics: dict[str, Any] = {"history": history}
        if "test" in splits:
            found = score(
                model, task, tokenizer, splits["test"], encoded["test"], names, config.data, batch_size
            )
            print_score(console, found, "test")
            metrics["test"] = found
        if is_chief():
            write_json(folder.metrics, metrics)
            for line in export_model(folder, tokenizer, names, config.data.max_length, splits["train"]):
                console.print(line, soft_wrap=True)
    barrier("the end of the run")
    return metrics


def _write_description(
    folder: RunFolder, config: RunConfig, names: Sequence[str], tokenizer: Tokenizer
) -> None:
    """Writes everything that is needed, beside the weights, to use the model."""
    write_text(folder.config, config_to_yaml(config))
    write_json(folder.labels, list(names))
    with replacing(folder.tokenizer) as temporary:
        tokenizer.save(temporary)


def _fit(
    config: RunConfig,
    folder: RunFolder,
    model: keras.Model,
    tokenizer: Tokenizer,
    encoded: Encodings,
    batch_size: int,
    steps: Steps,
) -> dict[str, list[float]]:
    """Trains, and leaves the model with the weights of its best epoch; returns the history."""
    training = create_dataset(
        encoded["train"],
        tokenizer,
        config.data,
        batch_size,
        model,
        shuffle=config.data.shuffle,
        seed=config.training.seed,
    )
    validation = None
    if "validation" in encoded:
        validation = create_dataset(encoded["validation"], tokenizer, config.data, batch_size, model)
    if config.data.service is not None:
        training = distribute(training, config.data.service)
        if validation is not None:
            validation = distribute(validation, config.data.service)
    return fit_steps(
        model,
        training,
        steps,
        _callbacks(config, folder, batch_size, steps, validation is not None),
        validation_data=validation,
        shuffle=False,  # the dataset does it
        verbose=_verbosity(),
    )


def _callbacks(
    config: RunConfig, folder: RunFolder, batch_size: int, steps: Steps, has_validation: bool
) -> list[keras.callbacks.Callback]:
    monitor = "val_loss" if has_validation else "loss"
    return [
        # It comes first, so that the callbacks after it see its number.
        Throughput(batch_size),
        TensorBoard(
            str(folder.logs),
            update_freq=max(1, steps.total // 100),
            profile_batch=config.training.profile_steps or 0,
            run_config=config_to_dict(config),
            global_batch_size=batch_size,
        ),
        ModelCheckpoint(str(folder.best_model), monitor=monitor, save_best_only=True),
        # Without a patience it never stops the training, but it still restores the best weights.
        EarlyStopping(
            monitor=monitor,
            patience=config.training.patience or config.training.epochs,
            restore_best_weights=True,
        ),
    ]


def _verbosity() -> int:
    """Returns 1 (a progress bar) in a terminal and 2 (a line for each epoch) otherwise; 0 on all but the chief."""
    if not is_chief():
        return 0
    return 1 if sys.stdout.isatty() else 2


def _create_folder(output: str) -> RunFolder:
    """Makes the folder on the chief; if that fails, every process raises the error."""
    problem = None
    if is_chief():
        try:
            RunFolder.create(output)
        except TfdistError as error:
            problem = str(error)
    problem = broadcast_json("the output folder", problem)
    if problem is not None:
        raise ConfigError(problem)
    return RunFolder(Path(output))


def _digest(splits: Mapping[str, Sequence[Example]]) -> str:
    """Returns 16 hexadecimal digits that are equal if all examples are, with their labels and order."""
    digest = hashlib.sha256()
    for split, examples in splits.items():
        digest.update(f"{split} {len(examples)}".encode())
        for example in examples:
            digest.update(repr(example).encode())
    return digest.hexdigest()[:16]
