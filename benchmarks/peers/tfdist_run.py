"""tfdist: strategy, model, optimizer and data as `tfdist train` makes them.

`python -m benchmarks.peers.tfdist_run JOB SEED PRECISION [LOGITS]`. The environment's FINETUNE_OPTIONS is a JSON
object: "strategy" names one other than `one_device`, "compile" has options of `compile`, and the rest are options of
the strategy.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from benchmarks.peers.job import Job, Split
from benchmarks.peers.linear_schedule import LinearSchedule
from benchmarks.peers.pause import Pause
from tfdist.bench.turns import Ended, Turns
from tfdist.config.schema import DataConfig, ModelConfig, OptimizerConfig
from tfdist.models.tokenizer import BertTokenizer
from tfdist.tasks.base import Encoded, create_dataset, create_loss, create_metrics
from tfdist.tasks.registry import create_task
from tfdist.training.model import create_model
from tfdist.training.optimizer import create_optimizer
from tfdist.training.run import PRECISIONS


def asked() -> dict[str, Any]:
    """Returns the options in the environment."""
    options: dict[str, Any] = json.loads(os.environ.get("FINETUNE_OPTIONS", "{}"))
    return options


def create_strategy(name: str = "one_device") -> tf.distribute.Strategy:
    """Makes the strategy with the options in the environment, and with those of `tfdist train`."""
    options = {"repeated_rows": "sum", "compiled_update": "auto", **asked()}
    options.pop("compile", None)
    return tfdist.create_strategy(options.pop("strategy", name), **options)


def compiled_model(job: Job, strategy: tf.distribute.Strategy, precision: str) -> keras.Model:
    """Builds and compiles the model."""
    settings = job.settings
    keras.config.set_dtype_policy(PRECISIONS[precision])
    config = ModelConfig(name=settings["model"], dropout=settings["dropout"])
    optimizer = OptimizerConfig(
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        global_clipnorm=settings["global_clipnorm"],
        warmup_fraction=settings["warmup_steps"] / settings["num_steps"],
    )
    with strategy.scope():
        model = create_model(config, create_task(settings["task"]), _tokenizer(job), settings["num_labels"])
        made = create_optimizer(optimizer, settings["num_steps"])
        if job.head is not None:
            model.layers[-1].kernel.assign(job.head)
            # The first rate of `tfdist train` is above 0. Here it is that of the others.
            rates = settings["learning_rate"], settings["warmup_steps"], settings["num_steps"]
            made.learning_rate = LinearSchedule(*rates)
        model.compile(
            optimizer=made,
            loss=create_loss(),
            weighted_metrics=create_metrics(),
            **asked().get("compile", {}),
        )
        model.optimizer.build(model.trainable_variables)
    return model


def create_data(job: Job, model: keras.Model, seed: int) -> tf.data.Dataset:
    """Returns the training data; their batches are those of the job's plan."""
    settings, split = job.settings, job.split("train")
    config = DataConfig(max_length=settings["max_length"], bucket_step=settings["bucket_step"])
    size = settings["global_batch_size"]
    data = _encoded(split, settings["per_token"])
    return create_dataset(data, _tokenizer(job), config, size, model, shuffle=True, seed=seed)


def _tokenizer(job: Job) -> BertTokenizer:
    return BertTokenizer.load(job.settings["model"])


def _encoded(split: Split, per_token: bool) -> Encoded:
    cuts = split.row_splits[1:-1]
    ids = np.split(split.ids, cuts)
    return Encoded(ids, np.split(split.labels, cuts) if per_token else split.labels)


def logits_of(job: Job, model: keras.Model) -> dict[int, np.ndarray]:
    """Returns the logits of each test example."""
    test, found = job.split("test"), {}
    for rows, length in job.test_batches(test):
        ids, mask = test.padded(rows, length)
        values = model.predict_on_batch({"token_ids": ids, "segment_ids": ids * 0, "padding_mask": mask})
        for row, one in zip(rows, np.asarray(values), strict=True):
            found[int(row)] = one[: test.lengths[row]] if job.settings["per_token"] else one
    return found


def main() -> None:
    folder, seed, precision, *logits = sys.argv[1:]
    turns, job = Turns(), Job.load(folder)
    strategy = create_strategy()
    keras.utils.set_random_seed(int(seed))
    model = compiled_model(job, strategy, precision)
    data = create_data(job, model, int(seed))
    epochs = job.settings["epochs"]
    shapes = [
        (len(rows), length) for epoch in range(epochs) for rows, length in job.batches(int(seed), epoch)
    ]
    turns.info = {"tfdist": tfdist.__version__, "keras": keras.__version__, "options": asked()}
    try:
        model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=[Pause(turns, shapes)])
        turns.flush()
    except Ended:
        pass
    if logits:
        job.save_logits(logits[0], logits_of(job, model))
    turns.done()


if __name__ == "__main__":
    main()
