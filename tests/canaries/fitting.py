"""Canaries of the patches of what surrounds a step: fit, evaluate, predict and their batches."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from canary import (
    BATCH,
    assert_equal,
    assert_one_device,
    canary,
    collectives,
    compiled,
    crossentropy,
    dense,
    rows,
    strategy,
)
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from tensorflow.python.data.ops import multi_device_iterator_ops

from tfdist._internals.fit.state import named_state
from tfdist.data import rows_dataset
from tfdist.errors import UnsupportedError


# Stock takes a placed batch to build the model, and gives the model all that is in it.
@canary({"_maybe_symbolic_build": r"expects 1 input\(s\), but it received \d input tensors"})
def generator_without_loss() -> None:
    def batches() -> Iterator[Any]:
        features, labels = rows(24)
        for start in range(0, 24, BATCH):
            yield features[start : start + BATCH], labels[start : start + BATCH]

    def trained(scope: Any) -> dict[str, np.ndarray]:
        with scope:
            model = compiled(lambda: keras.Sequential([keras.layers.Dense(3)]))
        model.fit(batches(), verbose=0)
        return {"bias": model.get_weights()[1]}

    assert_equal(trained(strategy().scope()), trained(contextlib.nullcontext()))


@canary({"_create_device_dataset": r"autotune.enabled is \[None, None\]"})
def iterators_that_do_not_tune_themselves() -> None:
    made = []
    inner = multi_device_iterator_ops._create_device_dataset

    def recorded(*args: Any) -> Any:
        made.append(inner(*args))
        return made[-1]

    multi_device_iterator_ops._create_device_dataset = recorded
    try:
        iter(strategy(fed=True).batches(tf.data.Dataset.range(4).batch(4), None, None))
    finally:
        multi_device_iterator_ops._create_device_dataset = inner
    tuning = [dataset.options().autotune.enabled for dataset in made]
    assert tuning == [False, False], f"autotune.enabled is {tuning}"


@canary({"TFEpochIterator.__init__": "AttributeError: 'PerReplicaSpec' object has no attribute 'shape'"})
def batches_of_one_shape() -> None:
    shapes = set()

    class Recorder(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            if not tf.distribute.in_cross_replica_context():
                shapes.add(inputs.shape[0])
            return inputs

    with strategy(static=True).scope():
        model = compiled(lambda: dense(Recorder()))
    model.fit(*rows(), batch_size=BATCH, verbose=0)
    assert shapes == {BATCH // 2}, f"the replicas saw batches of {shapes}"


@canary({"TFEpochIterator.reset": "^AssertionError: 2 batches"})
def batches_that_the_workers_agreed_on() -> None:
    iterator = TFEpochIterator(strategy(), x=np.zeros((16, 4), "float32"), batch_size=BATCH)
    iterator._distributed_dataset.num_batches = 5
    iterator.reset()
    assert iterator.num_batches == 5, f"{iterator.num_batches} batches"


# It crashes in tracing where the step is traced for the first time, else in the graph.
@canary(
    {
        "_make_function": "'NoneType' object has no attribute 'dtype'|feed a value for placeholder tensor 'while/"
    }
)
def several_steps_in_one_call() -> None:
    assert_one_device(lambda: compiled(steps_per_execution=2))


@canary({"Trainer.compile": "UnsupportedError: the optimizer 'adam.*' was made outside"})
def optimizer_by_name() -> None:
    with strategy().scope():
        model = dense()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*rows(8), verbose=0)


@canary({"_autoconvert_optionals": "^AssertionError: 6 updates"})
def no_update_at_the_end_of_the_data() -> None:
    strategy()
    model = compiled()
    data = tf.data.Dataset.from_tensor_slices(rows(40)).batch(BATCH).filter(lambda features, labels: True)
    model.fit(data, verbose=0)
    number = int(model.optimizer.iterations.numpy())
    assert number == 5, f"{number} updates"


@canary({"TensorFlowTrainer.train_step": "^AssertionError: 2 collectives"})
def one_collective_a_step() -> None:
    number = collectives(metrics=["accuracy"])
    assert number == 1, f"{number:g} collectives"


@canary({"make_predict_function": "10 predictions of 5 rows"})
def predict_on_batch() -> None:
    with strategy().scope():
        model = dense()
    features = rows(5)[0]
    found = model.predict_on_batch(features)
    assert len(found) == 5, f"{len(found)} predictions of 5 rows"
    np.testing.assert_allclose(found, model(features), atol=1e-6)


def refuses_a_model_from_outside(call: Callable[[keras.Model], Any]) -> None:
    model = compiled()
    model.predict(rows(8)[0], verbose=0)
    with strategy().scope(), pytest.raises(UnsupportedError, match="outside of strategy"):
        call(model)


@canary({"TensorFlowTrainer.fit": "'NoneType' object is not callable"})
def compile_in_a_callback() -> None:
    def slower(model: keras.Model) -> None:
        model.compile(keras.optimizers.SGD(0.1), crossentropy())

    def begin_epoch(epoch: int, logs: Any) -> None:
        if epoch == 1:
            slower(model)

    with strategy().scope():
        model = compiled()
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=begin_epoch)]
        model.fit(*rows(), batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    # Plain Keras fails in such a callback too.
    alone = compiled()
    alone.fit(*rows(), batch_size=BATCH, shuffle=False, verbose=0)
    slower(alone)
    alone.fit(*rows(), batch_size=BATCH, shuffle=False, verbose=0)
    assert_equal(*({str(number): one for number, one in enumerate(m.get_weights())} for m in (model, alone)))


@canary({"TensorFlowTrainer.evaluate": "evaluate took epoch 1 of the training data"})
def evaluate_between_epochs() -> None:
    features, labels = rows()
    data = rows_dataset(
        lambda numbers: (features[numbers], labels[numbers]), 25, global_batch_size=8, shuffle=True
    )
    with strategy().scope():
        model = compiled()
    model.fit(data, verbose=0)
    model.evaluate(data, verbose=0)
    assert named_state(model, dataset=data)["data/epoch"].read() == 1, (
        "evaluate took epoch 1 of the training data"
    )


@canary({"TensorFlowTrainer.predict": "DID NOT RAISE UnsupportedError"})
def predict_of_a_model_from_outside() -> None:
    refuses_a_model_from_outside(lambda model: model.predict(rows(8)[0], verbose=0))


@canary({"Model.export": "a SavedModel cannot hold"})
def saved_model_of_a_model_on_a_mesh() -> None:
    with strategy(mesh=True).scope():
        model = compiled()
    features = rows()[0]
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        loaded = tf.saved_model.load(folder)
        served = loaded.serve(features)
    np.testing.assert_allclose(served, model.predict(features, verbose=0), rtol=1e-5)
