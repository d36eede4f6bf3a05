import keras
import numpy as np
import pytest

from tfdist.config.schema import OptimizerConfig
from tfdist.training.schedules import LinearWarmup, create_schedule


def rates(schedule_name: str, num_updates: int = 10, warmup_fraction: float = 0.2) -> np.ndarray:
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule_name, warmup_fraction=warmup_fraction)
    schedule = create_schedule(config, num_updates)
    return np.array([float(schedule(step)) for step in range(num_updates + 1)])


def test_linear_rises_to_the_peak_then_falls_to_zero():
    expected = [1 / 3, 2 / 3, *np.linspace(1.0, 0.0, 9)]
    np.testing.assert_allclose(rates("linear"), expected, atol=1e-6)


def test_cosine_falls_along_half_a_cosine():
    expected = [1 / 3, 2 / 3, *(0.5 * (1 + np.cos(np.pi * np.arange(9) / 8)))]
    np.testing.assert_allclose(rates("cosine"), expected, atol=1e-6)


def test_constant_stays_at_the_peak():
    np.testing.assert_allclose(rates("constant"), [1 / 3, 2 / 3, *np.ones(9)], atol=1e-6)


@pytest.mark.parametrize("num_updates", [1, 2, 3])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 1.0])
def test_short_runs_have_positive_rates(num_updates, warmup_fraction):
    found = rates("linear", num_updates, warmup_fraction)
    assert np.all(found[:num_updates] > 0) and np.all(found <= 1.0)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_round_trip_through_the_optimizer_config(name):
    config = OptimizerConfig(learning_rate=0.3, schedule=name)
    optimizer = keras.optimizers.SGD(create_schedule(config, 20))
    again = keras.optimizers.SGD.from_config(optimizer.get_config())._learning_rate
    assert isinstance(again, LinearWarmup)
    for step in (0, 1, 5, 19):
        assert float(again(step)) == pytest.approx(float(optimizer._learning_rate(step)))
