"""tfdist on one device: strategy, model, optimizer and data of `tfdist train`.

`python -m benchmarks.peers.tfdist_run JOB SEED PRECISION [LOGITS]`; the environment's FINETUNE_OPTIONS, a JSON object,
has more options of `create_strategy` and, under "compile", of `compile`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import keras
import numpy as np

import tfdist
from benchmarks.peers.job import Job, Split
from benchmarks.peers.turns import Ended, Turns
from tfdist.config.schema import DataConfig, ModelConfig, OptimizerConfig
from tfdist.models.tokenizer import BertTokenizer
from tfdist.tasks.base import Encoded, create_dataset, create_loss, create_metrics
from tfdist.tasks.registry import create_task
from tfdist.training.model import create_model
from tfdist.training.optimizer import create_optimizer
from tfdist.training.run import PRECISIONS


class _Pause(keras.callbacks.Callback):
    """Lets the steps of `fit` take turns with those of others."""

    def __init__(self, turns: Turns, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.turns, self.shapes, self.step = turns, iter(shapes), 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.turns.begin_step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits for the step
        self.turns.end_step(*next(self.shapes))


def encoded(split: Split, per_token: bool) -> Encoded:
    """Returns the split as the tasks have it; the places of words are only needed to score."""
    cuts = split.row_splits[1:-1]
    ids = np.split(split.ids, cuts)
    return Encoded(ids, np.split(split.labels, cuts) if per_token else split.labels)


def main() -> None:
    folder, seed, precision, *logits = sys.argv[1:]
    turns, job = Turns(), Job.load(folder)
    settings = job.settings
    options = json.loads(os.environ.get("FINETUNE_OPTIONS", "{}"))
    compiled = options.pop("compile", {})
    strategy = tfdist.create_strategy("one_device", **{"repeated_rows": "sum", **options})
    keras.utils.set_random_seed(int(seed))
    keras.config.set_dtype_policy(PRECISIONS[precision])
    task, tokenizer = create_task(settings["task"]), BertTokenizer.load(settings["model"])
    with strategy.scope():
        model = create_model(
            ModelConfig(name=settings["model"], dropout=settings["dropout"]), task, tokenizer, settings["num_labels"]
        )
        optimizer = OptimizerConfig(
            learning_rate=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            global_clipnorm=settings["global_clipnorm"],
            warmup_fraction=settings["warmup_steps"] / settings["num_steps"],
        )
        model.compile(
            optimizer=create_optimizer(optimizer, settings["num_steps"]),
            loss=create_loss(),
            weighted_metrics=create_metrics(),
            **compiled,
        )
        model.optimizer.build(model.trainable_variables)
    config = DataConfig(max_length=settings["max_length"], bucket_step=settings["bucket_step"])
    data = create_dataset(
        encoded(job.split("train"), settings["per_token"]),
        tokenizer,
        config,
        settings["global_batch_size"],
        model,
        shuffle=True,
        seed=int(seed),
    )
    shapes = [
        (len(rows), length) for epoch in range(settings["epochs"]) for rows, length in job.batches(int(seed), epoch)
    ]
    turns.info = {"tfdist": tfdist.__version__, "keras": keras.__version__, "options": options, "compile": compiled}
    try:
        model.fit(data, epochs=settings["epochs"], shuffle=False, verbose=0, callbacks=[_Pause(turns, shapes)])
        turns.flush()
    except Ended:
        pass
    if logits:
        test, found = job.split("test"), {}
        for rows, length in job.test_batches(test):
            ids, mask = test.padded(rows, length)
            values = model.predict_on_batch({"token_ids": ids, "segment_ids": ids * 0, "padding_mask": mask})
            for row, one in zip(rows, np.asarray(values), strict=True):
                found[int(row)] = one[: test.lengths[row]] if settings["per_token"] else one
        job.save_logits(logits[0], found)
    turns.done()


if __name__ == "__main__":
    main()
