import keras
import pytest
import tensorflow as tf

from tfdist.measure.gradient_norm import GradientNorm


def test_global_norm_of_what_was_recorded_last() -> None:
    norm = GradientNorm()
    assert norm.read() is None
    norm.record([tf.constant([30.0])])
    slices = tf.IndexedSlices(tf.constant([[4.0]]), tf.constant([7]), tf.constant([9, 1]))
    norm.record([tf.constant([3.0], tf.bfloat16), None, slices])
    assert norm.read() == pytest.approx(5.0)


def test_attached_to_the_optimizer_that_sees_unscaled_gradients() -> None:
    inner = keras.optimizers.SGD(0.1)
    norm = GradientNorm.of(keras.optimizers.LossScaleOptimizer(inner))
    assert GradientNorm.of(inner) is norm
    assert inner.variables == [inner.iterations, inner.learning_rate]


def test_only_the_first_replica_records(monkeypatch) -> None:
    class Second:
        replica_id_in_sync_group = 1

    norm = GradientNorm()
    monkeypatch.setattr(tf.distribute, "get_replica_context", Second)
    norm.record([tf.constant([3.0])])
    assert norm.read() is None
