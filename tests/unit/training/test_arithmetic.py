import pytest

from tfdist.config.schema import TrainingConfig
from tfdist.errors import ConfigError
from tfdist.training.arithmetic import Steps, batch_size_of, count_steps


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


@pytest.mark.parametrize(
    ("max_steps", "total", "num_epochs", "num_whole_epochs", "in_last_epoch"),
    [(None, 6, 3, 3, 2), (1, 1, 1, 0, 1), (3, 3, 2, 1, 1), (4, 4, 2, 2, 2), (40, 6, 3, 3, 2)],
)
def test_steps(max_steps, total, num_epochs, num_whole_epochs, in_last_epoch):
    steps = count_steps(TrainingConfig(epochs=3, max_steps=max_steps), 33, 32)
    assert steps == Steps(total, of_epoch=2)
    assert (steps.num_epochs, steps.num_whole_epochs) == (num_epochs, num_whole_epochs)
    assert steps.in_last_epoch == in_last_epoch


def test_updates_take_all_their_batches():
    assert Steps(7, of_epoch=4).num_updates(2) == 3
    assert Steps(1, of_epoch=4).num_updates(2) == 1
    assert Steps(7, of_epoch=4).num_updates(None) == 7
