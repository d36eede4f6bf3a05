"""Stock Keras with KerasHub's BERT, on the backend that KERAS_BACKEND names; nothing of tfdist is imported.

`python -m benchmarks.peers.keras_run JOB SEED PRECISION [LOGITS]`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import keras
import keras_hub
import numpy as np

from benchmarks.peers.job import Job
from benchmarks.peers.linear_schedule import LinearSchedule
from benchmarks.peers.pause import Pause
from tfdist.bench.turns import Ended, Turns

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build(job: Job, precision: str) -> keras.Model:
    """Builds KerasHub's BERT with the pretrained weights and a head, compiled as `tfdist train` compiles its own."""
    settings = job.settings
    keras.config.set_dtype_policy(POLICIES[precision])
    backbone = keras_hub.models.BertBackbone.from_preset(settings["model"], dropout=settings["dropout"])
    output = backbone.output["sequence_output" if settings["per_token"] else "pooled_output"]
    hidden = keras.layers.Dropout(settings["dropout"])(output)
    initializer = keras.initializers.TruncatedNormal(stddev=0.02)
    logits = keras.layers.Dense(settings["num_labels"], kernel_initializer=initializer, dtype="float32")(
        hidden
    )
    model = keras.Model(backbone.input, logits)
    if job.head is not None:
        model.layers[-1].kernel.assign(job.head)
    optimizer = keras.optimizers.AdamW(
        LinearSchedule(settings["learning_rate"], settings["warmup_steps"], settings["num_steps"]),
        weight_decay=settings["weight_decay"],
        global_clipnorm=settings["global_clipnorm"],
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(optimizer, loss, weighted_metrics=["accuracy"])
    return model


def epoch_data(job: Job, seed: int, epoch: int) -> tuple[Any, list[tuple[int, int]]]:
    """Returns the batches of an epoch for `fit`, and rows and length of each."""
    split, per_token = job.split("train"), job.settings["per_token"]
    plan = job.batches(seed, epoch)

    def elements() -> Iterator[Any]:
        for rows, length in plan:
            ids, mask = split.padded(rows, length)
            x = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": mask}
            y = split.targets(rows, length, per_token)
            yield (x, np.maximum(y, 0), (y >= 0).astype(np.float32)) if per_token else (x, y)

    shapes = [(len(rows), length) for rows, length in plan]
    if keras.backend.backend() != "tensorflow":
        return elements(), shapes
    import tensorflow as tf

    matrix = tf.TensorSpec((None, None), tf.int32)
    inputs = dict.fromkeys(("token_ids", "segment_ids", "padding_mask"), matrix)
    weights = tf.TensorSpec((None, None), tf.float32)
    signature = (inputs, matrix, weights) if per_token else (inputs, tf.TensorSpec((None,), tf.int32))
    data = tf.data.Dataset.from_generator(elements, output_signature=signature)
    return data.apply(tf.data.experimental.assert_cardinality(len(plan))).prefetch(2), shapes


def main() -> None:
    folder, seed, precision, *logits = sys.argv[1:]
    turns, job = Turns(), Job.load(folder)
    keras.utils.set_random_seed(int(seed))
    model = build(job, precision)
    turns.info = {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "keras_hub": keras_hub.__version__,
    }
    try:
        for epoch in range(job.settings["epochs"]):
            data, shapes = epoch_data(job, int(seed), epoch)
            model.fit(
                data, steps_per_epoch=len(shapes), verbose=0, shuffle=False, callbacks=[Pause(turns, shapes)]
            )
        turns.flush()
    except Ended:
        pass
    if logits:
        test, found = job.split("test"), {}
        for rows, length in job.test_batches(test):
            ids, mask = test.padded(rows, length)
            x = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": mask}
            for row, values in zip(rows, np.asarray(model.predict_on_batch(x)), strict=True):
                found[int(row)] = values[: test.lengths[row]] if job.settings["per_token"] else values
        job.save_logits(logits[0], found)
    turns.done()


if __name__ == "__main__":
    main()
