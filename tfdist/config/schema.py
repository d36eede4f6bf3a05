"""The settings of a run, as frozen dataclasses. The command line, YAML files and code all fill these.

Each field's metadata holds its help text and limits; `loader.py` checks types, allowed values and limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


def _option(default: Any, help: str, at_least: float | None = None, at_most: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "at_least": at_least, "at_most": at_most})


@dataclass(frozen=True)
class Given:
    """A value that was given for an option of a strategy. The strategy's signature says how it is read.

    Attributes:
        value: The text in the file or flag, None for null, or the sequence or mapping that YAML has read.
        origin: File and line, or flag, for messages. Two objects that differ in it alone are equal.
    """

    value: Any
    origin: str = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """Which strategy distributes the run, and its options.

    Attributes:
        options: Every key of the section but `name`, as `Given` or as a Python value. They are checked against the
            strategy's signature when it is created, so that a new strategy changes nothing here.
    """

    name: str = _option("auto", "strategy by name, or auto")
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the examples come from and how they become batches."""

    path: str = _option("", "file, folder of splits, tfds:NAME, or package:chatterbot-corpus")
    format: Literal["auto", "tsv", "csv", "jsonl", "conll", "tfrecord", "tfds"] = _option(
        "auto", "file format"
    )
    text_column: str = _option("text", "column with the text")
    label_column: str = _option("label", "column with the label")
    max_length: int = _option(128, "longest sequence, in tokens", at_least=1)
    padding: Literal["bucket", "fixed"] = _option("bucket", "pad to the bucket's length or to max_length")
    bucket_step: int | None = _option(
        None,
        "bucket lengths are multiples of this, in tokens; by default 4, or 16 where shapes compile for long",
        at_least=1,
    )
    shuffle: bool = _option(True, "show the training examples in a new order each epoch")
    cache_dir: str = _option("auto", "folder that keeps tokenized text for the next run, or none")
    service: str | None = _option(None, "data service that prepares batches: auto, or host:port")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model, and what is changed in it."""

    name: str = _option("minilm", "minilm, bert, bigru, or a folder in the Hugging Face layout")
    dropout: float | None = _option(None, "dropout rate in place of the model's own", at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule."""

    learning_rate: float = _option(5e-5, "peak learning rate", at_least=0)
    weight_decay: float = _option(0.01, "decoupled weight decay; biases and norms are left out", at_least=0)
    warmup_fraction: float = _option(0.1, "share of the steps with linear warm-up", at_least=0, at_most=1)
    schedule: Literal["linear", "cosine", "constant"] = _option("linear", "decay after the warm-up")
    global_clipnorm: float | None = _option(1.0, "limit of the global gradient norm", at_least=0)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The fit itself."""

    epochs: int = _option(3, "passes over the training split", at_least=1)
    global_batch_size: int = _option(
        32, "examples of one update, over all replicas and accumulated batches", at_least=1
    )
    precision: Literal["float32", "bfloat16", "float16"] = _option("float32", "compute precision")
    gradient_accumulation_steps: int | None = _option(None, "batches for one update", at_least=1)
    steps_per_execution: int = _option(1, "steps in one call of the compiled function", at_least=1)
    max_steps: int | None = _option(None, "stop after so many training steps", at_least=1)
    seed: int = _option(0, "seed of weights, shuffling and dropout", at_least=0)
    patience: int | None = _option(
        None, "stop after so many epochs without a better validation loss", at_least=0
    )
    profile_steps: str | None = _option(None, "steps to profile for TensorBoard, as FIRST,LAST")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that `tfdist train` needs."""

    task: Literal["text-classification", "token-classification"] = _option(
        "text-classification", "what to learn"
    )
    output: str = _option("runs/latest", "folder for logs, checkpoints and exports; must be empty or absent")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
