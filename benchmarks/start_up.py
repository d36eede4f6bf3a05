"""Seconds until `tfdist train` can take its first step: texts tokenized before the model is made, beside it, or kept.

`python -m benchmarks.start_up [--smoke]`. Texts are random English-like words; 80, 10 and 10 percent are for training,
validation and test. `before`: everything is tokenized, then the model is made. `beside`: a thread tokenizes meanwhile,
and the test split is not waited for, as in `tfdist train`. `kept`: as `beside`, from the files of an earlier run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import tfdist
from benchmarks import harness
from tfdist.config.schema import DataConfig, ModelConfig
from tfdist.data.examples import TextExample
from tfdist.errors import TfdistError
from tfdist.tasks.base import Tokenizer
from tfdist.tasks.registry import create_task
from tfdist.training.encoding import Encodings
from tfdist.training.model import create_model, create_tokenizer

LABELS = ["negative", "positive"]
Splits = dict[str, Sequence[TextExample]]


def splits(num_texts: int) -> Splits:
    """Returns texts of 3 to 40 words; rare words are as usual as in a language."""
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnoprstuvwy"))
    words = np.array(["".join(generator.choice(letters, generator.integers(2, 9))) for _ in range(20_000)])
    lengths = generator.integers(3, 41, num_texts)
    drawn = words[np.minimum(generator.zipf(1.3, lengths.sum()), len(words)) - 1]
    rows = np.split(drawn, np.cumsum(lengths)[:-1])
    examples = [TextExample(" ".join(row), LABELS[len(row) % 2]) for row in rows]
    first, second = int(0.8 * num_texts), int(0.9 * num_texts)
    return {"train": examples[:first], "validation": examples[first:second], "test": examples[second:]}


def contestant(
    given: Splits,
    strategy: tf.distribute.Strategy,
    model: ModelConfig,
    tokenizer: Tokenizer,
    *,
    way: str,
    folder: str,
) -> Callable[[], list[float]]:
    """Returns a function that starts a run in one way, and returns the seconds until its data and model are there."""
    task = create_task("text-classification")
    data = DataConfig(cache_dir=folder if way == "kept" else "none")

    def run() -> list[float]:
        start = time.perf_counter()
        with Encodings(strategy, task, given, LABELS, tokenizer, data) as encoded:
            if way == "before":
                for split in given:
                    encoded[split]
            with strategy.scope():
                create_model(model, task, tokenizer, len(LABELS))
            encoded["train"], encoded["validation"]
            seconds = time.perf_counter() - start
            encoded[
                "test"
            ]  # a run comes to it later; here it keeps the next contestant from sharing the cores
        return [seconds]

    return run


def measure(smoke: bool) -> dict[str, Any]:
    """Returns seconds and ratios for two numbers of texts."""
    strategy = tfdist.create_strategy("one_device")
    results: dict[str, Any] = {"texts": {}}
    for num_texts in (200,) if smoke else (10_000, 100_000):
        given = splits(num_texts)
        model, tokenizer = _model(given, smoke)
        with tempfile.TemporaryDirectory() as folder:
            ways = {
                way: contestant(given, strategy, model, tokenizer, way=way, folder=folder)
                for way in ("before", "beside", "kept")
            }
            samples = harness.interleaved(ways, rounds=1 if smoke else 3)
        results["texts"][str(num_texts)] = {
            "model": model.name,
            "seconds": {way: harness.summary([one[0] for one in found]) for way, found in samples.items()},
            "ratios": {
                f"{way} / before": harness.ratio(samples, way, "before") for way in ("beside", "kept")
            },
        }
    return results


def _model(given: Splits, smoke: bool) -> tuple[ModelConfig, Tokenizer]:
    """Returns MiniLM where its weights are installed, else a BERT with fresh weights."""
    for name in ["bert"] if smoke else ["minilm", "bert"]:
        try:
            return ModelConfig(name=name), create_tokenizer(ModelConfig(name=name), given["train"])
        except TfdistError:
            continue
    raise AssertionError("a BERT with fresh weights needs no files")


def main() -> None:
    """Measures, prints a table, and writes `start_up.json`."""
    arguments = harness.parse_arguments(str(__doc__).splitlines()[0])
    results = measure(arguments.smoke)
    print("| texts | way | seconds | to `before` | quartiles |\n|---|---|---|---|---|")
    for number, found in results["texts"].items():
        for way, seconds in found["seconds"].items():
            ratio = found["ratios"].get(f"{way} / before", {"median": 1.0, "low": 1.0, "high": 1.0})
            spread = f"{ratio['low']:.2f}–{ratio['high']:.2f}"
            print(f"| {number} | {way} | {seconds['median']:.2f} | {ratio['median']:.2f} | {spread} |")
    print(harness.write(arguments.output, "start_up", results))


if __name__ == "__main__":
    main()
