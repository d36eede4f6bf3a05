import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.callbacks import LearningRateWarmup
from tfdist.errors import ConfigError, UnsupportedError
from tfdist.measure.learning_rate import current_learning_rate


class Rates(keras.callbacks.Callback):
    """The rate of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.seen.append(current_learning_rate(self.model.optimizer))


def _rates(model, data, warmup: LearningRateWarmup, **options: object) -> list[float]:
    rates = Rates()
    model.fit(*data, batch_size=8, verbose=0, callbacks=[warmup, rates], **options)
    return rates.seen


def test_linear_over_steps_then_left_alone(model, data) -> None:
    rates = _rates(model, data, LearningRateWarmup(num_steps=4, initial_fraction=0.5), epochs=2)
    np.testing.assert_allclose(rates, [0.05, 0.0625, 0.075, 0.0875] + [0.1] * 6, rtol=1e-6)
    model.optimizer.learning_rate = 0.02  # as ReduceLROnPlateau would
    assert _rates(model, data, LearningRateWarmup(num_steps=4)) == pytest.approx([0.02] * 5)


def test_epochs_with_the_default_tenth(model, data) -> None:
    rates = _rates(model, data, LearningRateWarmup(num_epochs=2), epochs=3)
    np.testing.assert_allclose(rates, 0.1 * (0.1 + 0.9 * np.minimum(np.arange(15) / 10, 1)), rtol=1e-6)


def test_horovod_semantics(model, data, monkeypatch) -> None:
    monkeypatch.setattr(tf.distribute.Strategy, "num_replicas_in_sync", 4)
    warmup = LearningRateWarmup(num_epochs=1, scale_by_replicas=True)
    # Only the arithmetic is under test, so `fit`, which would believe in four replicas, is not called.
    warmup.set_model(model)
    warmup.set_params({"steps": 5})
    warmup.on_epoch_begin(0)
    rates = []
    for batch in range(6):
        warmup.on_train_batch_begin(batch)
        rates.append(current_learning_rate(model.optimizer))
    horovod = [0.4 / 4 * (batch / 5 * (4 - 1) + 1) for batch in range(6)]  # its formula for initial_lr=0.4
    np.testing.assert_allclose(rates, horovod, rtol=1e-6)
    assert warmup.get_state() == {"target": pytest.approx(0.4)}


def test_interrupted_warmup_goes_on(model, data) -> None:
    warmup = LearningRateWarmup(num_steps=10, initial_fraction=0.0)
    first = _rates(model, data, warmup)
    resumed = LearningRateWarmup(num_steps=10, initial_fraction=0.0)
    resumed.set_state(warmup.get_state())  # the optimizer itself stands at a rate of the middle
    second = _rates(model, data, resumed)
    np.testing.assert_allclose(first + second, 0.1 * np.arange(10) / 10, atol=1e-8)


def test_loss_scaling_optimizer(model, data) -> None:
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "mse")
    rates = _rates(model, data, LearningRateWarmup(num_steps=4, initial_fraction=0.5))
    np.testing.assert_allclose(rates, [0.05, 0.0625, 0.075, 0.0875, 0.1], rtol=1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
def test_schedule_is_refused(model, data, wrapped: bool) -> None:
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10))
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer, "mse")
    with pytest.raises(UnsupportedError, match="from a schedule.*warmup_target"):
        model.fit(*data, verbose=0, callbacks=[LearningRateWarmup(num_steps=4)])


def test_epochs_of_unknown_length_are_refused(model, data) -> None:
    dataset = tf.data.Dataset.from_generator(
        lambda: [(data[0], data[1])],
        output_signature=(tf.TensorSpec((None, 4)), tf.TensorSpec((None, 2))),
    )
    with pytest.raises(UnsupportedError, match="steps_per_epoch, or the warm-up num_steps"):
        model.fit(dataset, verbose=0, callbacks=[LearningRateWarmup(num_epochs=1)])


@pytest.mark.parametrize("options", [{}, {"num_epochs": 1, "num_steps": 1}, {"num_steps": 0}])
def test_length_is_checked(options: dict) -> None:
    with pytest.raises(ConfigError, match="give exactly one"):
        LearningRateWarmup(**options)


def test_fraction_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"initial_fraction=2.*0 to 1"):
        LearningRateWarmup(1, initial_fraction=2)
