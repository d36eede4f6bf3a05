import keras
import pytest

from tfdist.config.schema import StrategyConfig, TrainingConfig
from tfdist.errors import ConfigError
from tfdist.training import run
from tfdist.training.run import StepLimit, batch_size_of, count_steps, start_strategy


def test_a_batch_is_the_global_batch_without_the_accumulation():
    assert batch_size_of(TrainingConfig(global_batch_size=32), 4) == 32
    assert batch_size_of(TrainingConfig(global_batch_size=32, gradient_accumulation_steps=4), 8) == 8


def test_fewer_examples_than_replicas_are_refused():
    with pytest.raises(ConfigError, match="batch size 3 .* fewer than the 4 replicas. Give .* at least 4"):
        batch_size_of(TrainingConfig(global_batch_size=3), 4)
    with pytest.raises(ConfigError, match="batches of 2 examples, fewer than the 4 .* at least 16"):
        batch_size_of(TrainingConfig(global_batch_size=8, gradient_accumulation_steps=4), 4)


def test_a_global_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="batch size 32 is no multiple of the 3 accumulated"):
        batch_size_of(TrainingConfig(global_batch_size=32, gradient_accumulation_steps=3), 1)


def test_steps():
    assert count_steps(TrainingConfig(epochs=3), 33, 32) == 6
    assert count_steps(TrainingConfig(epochs=3, max_steps=4), 33, 32) == 4
    assert count_steps(TrainingConfig(epochs=3, max_steps=40), 33, 32) == 6


def test_the_step_limit_ends_in_the_middle_of_an_epoch():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(), "mse")
    x = keras.ops.ones((10, 1))
    model.fit(x, x, batch_size=2, epochs=3, verbose=0, callbacks=[StepLimit(7)])
    assert int(model.optimizer.iterations) == 7


def test_only_options_that_were_chosen_reach_the_strategy(monkeypatch):
    given = {}
    monkeypatch.setattr(run, "create_strategy", lambda name, **options: given.update({name: options}))
    start_strategy(StrategyConfig())
    start_strategy(StrategyConfig(name="mirrored", devices=2))
    assert given == {"auto": {}, "mirrored": {"devices": 2}}
