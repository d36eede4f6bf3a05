"""Uses a finished run: scores on a split, and predictions for lines of text."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from tfdist.config.schema import RunConfig, StrategyConfig
from tfdist.data.sources import load_splits
from tfdist.errors import DataError
from tfdist.process import is_chief
from tfdist.strategies.factory import create_strategy
from tfdist.training.arithmetic import batch_size_of
from tfdist.training.encoding import encode_examples
from tfdist.training.score import describe, print_score, score
from tfdist.training.trained import load_run

LINES_AT_ONCE = 1024


def evaluate(
    run: str,
    strategy_config: StrategyConfig,
    *,
    data_path: str | None = None,
    split: str = "test",
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Prints and returns loss, metrics and the report of a run's best model on one split.

    Raises:
        TfdistError: The run folder, the data or the strategy is not usable.
    """
    strategy = create_strategy(strategy_config.name, **strategy_config.options)
    with strategy.scope():
        trained = load_run(run)
    data = trained.config.data
    if data_path is not None:
        data = dataclasses.replace(data, path=data_path)
    examples = load_splits(data, trained.config.task, needed=(split,))[split]
    encoded = encode_examples(strategy, trained.task, examples, trained.names, trained.tokenizer, data)
    found = score(
        trained.model,
        trained.task,
        trained.tokenizer,
        examples,
        encoded,
        trained.names,
        data,
        _batch_size(trained.config, batch_size, strategy.num_replicas_in_sync),
    )
    print_score(Console(quiet=not is_chief()), found, split)
    return found


def predict(
    run: str, strategy_config: StrategyConfig, *, file: str = "-", batch_size: int | None = None
) -> None:
    """Writes one JSON object to the standard output for each line of `file` (`-` is the standard input).

    Raises:
        TfdistError: The run folder, the file or the strategy is not usable.
    """
    strategy = create_strategy(strategy_config.name, **strategy_config.options)
    with strategy.scope():
        trained = load_run(run)
    size = _batch_size(trained.config, batch_size, strategy.num_replicas_in_sync)
    lines = _lines(file)
    while chunk := [trained.task.parse_line(line) for line in itertools.islice(lines, LINES_AT_ONCE)]:
        for answer in describe(
            trained.model, trained.task, trained.tokenizer, chunk, trained.names, trained.config.data, size
        ):
            if is_chief():
                print(json.dumps(answer, ensure_ascii=False))


def _batch_size(config: RunConfig, given: int | None, row_shards: int) -> int:
    size = config.training.global_batch_size if given is None else given
    training = dataclasses.replace(config.training, gradient_accumulation_steps=None, global_batch_size=size)
    return batch_size_of(training, row_shards)


def _lines(file: str) -> Iterator[str]:
    """Yields the lines of a file, or of the standard input for `-`, without their ends."""
    name = "the standard input" if file == "-" else file
    try:
        stream = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror}. Give a file with one text in each line.") from error
    with stream:
        for number, line in enumerate(stream, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{name}:{number}: not valid UTF-8 (byte {error.start + 1} of the line). "
                    "Convert the file to UTF-8."
                ) from error
