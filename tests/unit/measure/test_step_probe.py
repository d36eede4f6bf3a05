import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist._internals.replica.cut import OwnShare, ReplicaBatch
from tfdist._internals.replica.distribution import ReplicaDistribution
from tfdist.measure.step_probe import StepProbe


def _next_of(dataset: tf.data.Dataset, probe: StepProbe):
    """A compiled step that only takes its batch, as a training function would."""
    iterator = iter(dataset)

    @tf.function
    def step():
        return probe.get_next(iterator.get_next)

    return step


def test_counts_examples_and_tokens_that_are_no_padding() -> None:
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]], "int32")
    x = {"token_ids": mask * 5, "segment_ids": mask * 0, "padding_mask": mask}
    probe = StepProbe(None)
    step = _next_of(tf.data.Dataset.from_tensor_slices((x, [0, 1, 2])).batch(2), probe)
    batch = step()
    np.testing.assert_array_equal(batch[1], [0, 1])
    assert (probe.read().examples, probe.read().tokens) == (2, 5)
    step()
    assert (probe.read().examples, probe.read().tokens) == (3, 6)
    assert probe.is_connected


class _OneReplica(ReplicaDistribution, tf.distribute.OneDeviceStrategy):
    """The least that places a batch."""


@pytest.mark.parametrize("owned", [False, True], ids=["global batches", "batches of each worker's own"])
def test_padding_rows_of_a_replica_do_not_count(owned: bool) -> None:
    data = {"token_ids": tf.constant([[7, 7, 0], [7, 0, 0], [7, 7, 7]])}, tf.zeros(3)
    valid = tf.constant(2, tf.int64)
    batch = OwnShare(data, valid) if owned else ReplicaBatch(data, valid, tf.constant(5, tf.int64))
    probe = StepProbe(_OneReplica("CPU:0"))
    probe.get_next(lambda: batch)
    assert (probe.read().examples, probe.read().tokens) == (2, 3)


OTHER_INPUTS = {
    "dense": lambda: tf.zeros((3, 2)),
    "first is None": lambda: (None, tf.zeros((3, 2))),
    "ragged": lambda: tf.ragged.constant([[1], [2, 3], []]),
    "strings": lambda: tf.constant(["a", "b", "c"]),
}


@pytest.mark.parametrize("name", OTHER_INPUTS)
def test_other_inputs_have_examples_only(name: str) -> None:
    x = OTHER_INPUTS[name]()
    probe = StepProbe(None)
    probe.get_next(lambda: (x, tf.zeros(3)) if not isinstance(x, tuple) else (x, None))
    assert (probe.read().examples, probe.read().tokens) == (3, 0)


def test_waiting_for_the_batch_is_input_time() -> None:
    def late(x):
        return tf.py_function(_sleep, [x], tf.int64)

    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    dataset = tf.data.Dataset.range(3).map(late).batch(1).with_options(options)
    probe = StepProbe(None)
    step = _next_of(dataset, probe)
    for _ in range(3):
        step()
    assert probe.read().input_s >= 3 * 0.02  # a lower bound holds on any machine


def _sleep(value):
    time.sleep(0.02)
    return value


def test_attached_once_and_the_old_training_function_goes(model, data) -> None:
    model.fit(*data, verbose=0)
    before = model.train_function
    probe = StepProbe.of(model)
    around = model.train_function
    assert around is not before  # it may be traced without a probe
    assert StepProbe.of(model) is probe
    assert model.train_function is around
    assert not any("probe" in variable.path for variable in model.variables)
    keras.models.clone_model(model)


def test_probed_step_trains_alike_and_is_not_traced_more_often(data) -> None:
    weights, losses = [], []
    traces: dict[bool, int] = {False: 0, True: 0}

    class Counted(keras.Sequential):
        def train_step(self, data):
            traces[probed] += 1
            return super().train_step(data)

    for probed in (False, True):
        keras.utils.set_random_seed(7)
        model = Counted([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
        model.compile(keras.optimizers.Adam(0.1), "mse")
        if probed:
            probe = StepProbe.of(model)
        for _ in range(2):  # 5 batches, the last of another size
            losses.append(model.fit(*data, batch_size=8, epochs=2, verbose=0).history["loss"])
        weights.append(model.get_weights())
    np.testing.assert_array_equal(weights[0][0], weights[1][0])
    assert losses[:2] == losses[2:]
    assert traces[True] <= traces[False]
    assert probe.read().examples == 4 * 37
    assert probe.read().input_s > 0


def test_data_of_unknown_length_ends_as_before(model, data) -> None:
    probe = StepProbe.of(model)
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(8).filter(lambda x, y: True)
    history = model.fit(dataset, epochs=2, verbose=0)
    assert len(history.epoch) == 2
    assert probe.read().examples == 2 * 37
    assert int(model.optimizer.iterations) == 10


def test_inputs_may_be_absent(data) -> None:
    x, absent = keras.Input((4,)), keras.Input((4,), optional=True)

    class Either(keras.layers.Layer):
        def call(self, x, y=None):
            return x if y is None else x + y

    model = keras.Model([x, absent], keras.layers.Dense(2)(Either()(x, absent)))
    model.compile("sgd", "mse")
    probe = StepProbe.of(model)
    model.fit([data[0], None], data[1], batch_size=8, verbose=0)
    assert probe.read().examples == 37
