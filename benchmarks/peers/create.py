"""Writes the folder of a job, which all contestants read, and scores their logits by the task's own report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.job import Job
from tfdist.config.schema import DataConfig, ModelConfig, OptimizerConfig
from tfdist.data.batch_plan import BatchPlan
from tfdist.data.examples import Example
from tfdist.data.labels import label_names
from tfdist.data.sources import load_splits
from tfdist.models.bert_config import BertConfig
from tfdist.models.pretrained import resolve_model_folder
from tfdist.tasks.base import Encoded, Task
from tfdist.tasks.registry import create_task
from tfdist.training.model import create_tokenizer


@dataclass(frozen=True)
class Created:
    """A job, and what its scores need."""

    job: Job
    task: Task
    test: Sequence[Example]
    encoded_test: Encoded
    names: Sequence[str]

    def score(self, path: Path) -> float:
        """Returns the test score in percent: accuracy of texts, or micro F1 of entities, of logits that are on disk."""
        with np.load(path) as found:
            rows = np.split(found["values"], np.cumsum(found["sizes"])[:-1])
        if not self.job.settings["per_token"]:
            return 100 * float((np.concatenate(rows).argmax(-1) == self.encoded_test.labels).mean())
        report = self.task.report(self.test, rows, self.encoded_test, self.names)  # type: ignore[arg-type]
        return 100 * float(report["micro avg"]["f1-score"])


def create_job(
    folder: Path,
    *,
    task_name: str,
    data: str,
    model: str,
    seeds: int,
    epochs: int,
    bucket_step: int | None = None,
    learning_rate: float | None = None,
    alike: bool = False,
) -> Created:
    """Reads and tokenizes the data, and writes the job with the batches of each seed and epoch.

    Args:
        folder: Where the job is written.
        task_name: `text-classification` or `token-classification`.
        data: As `tfdist train --data` takes it.
        model: As `tfdist train --model` takes it: `minilm`, or a folder in the Hugging Face layout.
        seeds: Seeds from 0 on.
        epochs: Epochs of a run.
        bucket_step: Padded lengths are multiples of it; None is what `tfdist train` does.
        learning_rate: The highest one; None is that of `tfdist train`.
        alike: Whether nothing is left to chance: no dropout, and the same head for all.
    """
    where = resolve_model_folder(model)
    # What `tfdist train` takes on a CPU.
    config = DataConfig(path=data, bucket_step=4 if bucket_step is None else bucket_step)
    optimizer = OptimizerConfig(**({} if learning_rate is None else {"learning_rate": learning_rate}))
    task = create_task(task_name)
    splits = load_splits(config, task_name, needed=("train", "test"))
    names = label_names(splits)
    tokenizer = create_tokenizer(ModelConfig(name=str(where)), splits["train"])
    encoded = {
        name: task.encode(splits[name], names, tokenizer, config.max_length) for name in ("train", "test")
    }
    folder.mkdir(parents=True, exist_ok=True)
    per_token = task.logits_rank == 3
    for name, one in encoded.items():
        labels = np.concatenate(one.labels) if per_token and one.labels is not None else one.labels
        lengths = np.array([len(ids) for ids in one.ids])
        row_splits = np.concatenate([[0], np.cumsum(lengths)])
        np.savez(folder / f"{name}.npz", ids=np.concatenate(one.ids), row_splits=row_splits, labels=labels)
    lengths = np.array([len(ids) for ids in encoded["train"].ids])
    batch_size = 32
    for seed in range(seeds):
        plan = BatchPlan(
            lengths=lengths,
            global_batch_size=batch_size,
            max_length=config.max_length,
            bucket_step=config.bucket_step,
            seed=seed,
        )
        for epoch in range(epochs):
            order, bounds, padded = plan.epoch(epoch)
            np.savez(folder / f"plan-{seed}-{epoch}.npz", order=order, bounds=bounds, lengths=padded)
    num_steps = epochs * plan.num_batches
    bert = BertConfig.from_file(where / "config.json")
    if alike:
        head = np.random.default_rng(0).normal(scale=0.02, size=(bert.hidden_size, len(names)))
        np.save(folder / "head.npy", head.astype("float32"))
    settings = {
        "model": str(where),
        "dropout": 0.0 if alike else bert.hidden_dropout_prob,
        "task": task_name,
        "per_token": per_token,
        "num_labels": len(names),
        "learning_rate": optimizer.learning_rate,
        "weight_decay": optimizer.weight_decay,
        "global_clipnorm": optimizer.global_clipnorm,
        "warmup_steps": round(optimizer.warmup_fraction * num_steps),
        "num_steps": num_steps,
        "max_length": config.max_length,
        "bucket_step": config.bucket_step,
        "global_batch_size": batch_size,
        "epochs": epochs,
    }
    (folder / "job.json").write_text(json.dumps(settings, indent=1))
    return Created(Job(folder, settings), task, splits["test"], encoded["test"], names)
