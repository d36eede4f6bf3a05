from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfdist.callbacks import LearningRateWarmup, TensorBoard, Throughput
from tfdist.config.schema import RunConfig
from tfdist.errors import ConfigError
from tfdist.measure.gradient_norm import GradientNorm
from tfdist.measure.step_probe import StepProbe


def _read(folder: Path) -> dict[str, list[tuple[int, object]]]:
    """Tag -> (step, value) of every event in a run."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, tf.make_ndarray(event.tensor_proto).item()) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


class ProbedModel(keras.Model):
    """A functional model whose training function feeds the probes, as that of tfdist's strategies does."""

    def make_train_function(self, force: bool = False):
        if self.train_function is not None and not force:
            return self.train_function

        @tf.function
        def train_function(iterator):
            return self.train_step(StepProbe.of(self).get_next(iterator.get_next))

        self.train_function = train_function
        return train_function

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        GradientNorm.of(self.optimizer).record(gradients)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


@pytest.fixture
def probed_model() -> keras.Model:
    keras.utils.set_random_seed(7)
    tokens = keras.Input((3,), name="token_ids", dtype="int32")
    mask = keras.Input((3,), name="padding_mask", dtype="int32")
    hidden = keras.layers.Embedding(9, 4)(tokens) * keras.ops.cast(mask, "float32")[..., None]
    model = ProbedModel({"token_ids": tokens, "padding_mask": mask}, keras.layers.Dense(1)(hidden[:, 0]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def test_epochs_are_the_history(model, data, tmp_path: Path) -> None:
    validation = (data[0][:8], data[1][:8])
    # Throughput adds a log of its own, which has a tag here already.
    callbacks = [Throughput(), TensorBoard(tmp_path)]
    history = model.fit(
        *data, batch_size=8, epochs=3, validation_data=validation, verbose=0, callbacks=callbacks
    ).history
    train, held_out = _read(tmp_path / "train"), _read(tmp_path / "validation")
    for name in ("loss", "mae"):
        assert train[f"epoch_{name}"] == [(i, pytest.approx(v)) for i, v in enumerate(history[name])]
        assert held_out[f"epoch_{name}"] == [
            (i, pytest.approx(v)) for i, v in enumerate(history[f"val_{name}"])
        ]
    assert set(held_out) == {"epoch_loss", "epoch_mae"}
    assert set(train) == {
        *("epoch_loss", "epoch_mae", "epoch_learning_rate"),
        *("throughput/examples_per_sec", "step_time/total_ms", "step_time/input_ms", "step_time/compute_ms"),
        *("memory/process_gib", "optimizer/gradient_norm", "run/strategy"),
    }
    assert [step for step, _ in train["step_time/total_ms"]] == [5, 10, 15]
    for (_, rate), (_, step_ms) in zip(
        train["throughput/examples_per_sec"][1:], train["step_time/total_ms"][1:], strict=True
    ):
        assert rate * step_ms / 1000 == pytest.approx(37 / 5, rel=1e-4)
    assert len(list(tmp_path.rglob("events*"))) == 2


def test_first_interval_leaves_the_compiling_step_out(model, data, tmp_path: Path) -> None:
    model.fit(*data, batch_size=8, shuffle=False, verbose=0, callbacks=[TensorBoard(tmp_path)])
    train = _read(tmp_path / "train")
    examples_per_step = train["throughput/examples_per_sec"][0][1] * train["step_time/total_ms"][0][1] / 1000
    assert examples_per_step == pytest.approx((37 - 8) / 4, rel=1e-4)


@pytest.mark.parametrize(
    ("update_freq", "steps_per_execution", "logs_at", "speed_at"),
    [
        (2, 1, [2, 4, 7, 9], [2, 4, 7, 9]),
        ("batch", 1, list(range(1, 11)), [2, 3, 4, 6, 7, 8, 9]),  # the first step compiles and has no speed
        (2, 2, [2, 4, 5, 7, 9, 10], [4, 7, 9]),
    ],
)
def test_within_an_epoch(
    model, data, tmp_path: Path, update_freq, steps_per_execution, logs_at, speed_at
) -> None:
    model.compile(keras.optimizers.SGD(0.1), "mse", steps_per_execution=steps_per_execution)
    callback = TensorBoard(tmp_path, update_freq=update_freq)
    model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    train = _read(tmp_path / "train")
    assert sorted(step for step, _ in train["batch/loss"]) == logs_at  # written by another thread
    assert [step for step, _ in train["step_time/total_ms"]] == speed_at


def test_learning_rate_of_schedules_and_loss_scaling(model, data, tmp_path: Path) -> None:
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10, 0.0)
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(schedule), initial_scale=64.0), "mse"
    )
    model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[TensorBoard(tmp_path, update_freq=4)])
    train = _read(tmp_path / "train")
    assert train["epoch_learning_rate"] == [(0, pytest.approx(0.05)), (1, pytest.approx(0.0))]
    assert train["optimizer/learning_rate"] == [(4, pytest.approx(0.06)), (9, pytest.approx(0.01))]
    assert train["optimizer/loss_scale"] == [(4, 64.0), (9, 64.0)]


def test_learning_rate_is_that_of_the_warmup(model, data, tmp_path: Path) -> None:
    callbacks = [LearningRateWarmup(num_epochs=2, initial_fraction=0.0), TensorBoard(tmp_path)]
    model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    assert _read(tmp_path / "train")["epoch_learning_rate"] == [
        (0, pytest.approx(0.04)),
        (1, pytest.approx(0.09)),
    ]


def test_curves_go_on_in_the_next_fit(model, data, tmp_path: Path) -> None:
    for first in (0, 1):
        model.fit(
            *data,
            batch_size=8,
            initial_epoch=first,
            epochs=first + 1,
            verbose=0,
            callbacks=[TensorBoard(tmp_path)],
        )
    train = _read(tmp_path / "train")
    assert [step for step, _ in train["epoch_loss"]] == [0, 1]
    assert [step for step, _ in train["step_time/total_ms"]] == [5, 10]


def test_probes(probed_model, tmp_path: Path) -> None:
    mask = np.tile([[1, 1, 0], [1, 0, 0]], (8, 1)).astype("int32")
    x = {"token_ids": mask * 3, "padding_mask": mask}
    dataset = tf.data.Dataset.from_tensor_slices((x, np.ones((16, 1), "float32"))).batch(4)
    probed_model.fit(dataset, epochs=2, verbose=0, callbacks=[TensorBoard(tmp_path)])
    train = _read(tmp_path / "train")
    for index in range(2):
        value = {tag: rows[index][1] for tag, rows in train.items() if "/" in tag and "run/" not in tag}
        assert value["throughput/tokens_per_sec"] == pytest.approx(1.5 * value["throughput/examples_per_sec"])
        assert value["step_time/input_ms"] > 0
        assert value["step_time/input_ms"] + value["step_time/compute_ms"] == pytest.approx(
            value["step_time/total_ms"], rel=1e-4
        )
        assert value["throughput/examples_per_sec"] * value["step_time/total_ms"] / 1000 == pytest.approx(
            4, rel=1e-4
        )
    with tf.GradientTape() as tape:
        loss = probed_model.compute_loss(
            None, np.ones((4, 1), "float32"), probed_model({k: v[:4] for k, v in x.items()})
        )
    norm = float(tf.linalg.global_norm(tape.gradient(loss, probed_model.trainable_variables)))
    recorded = [value for _, value in train["optimizer/gradient_norm"]]
    assert recorded[0] > recorded[1] > norm > 0  # all batches are alike, and the loss falls


@pytest.mark.parametrize(("global_batch_size", "rate_is_known"), [(None, False), (8, True)])
def test_own_training_function_needs_the_batch_size(
    data, tmp_path: Path, global_batch_size, rate_is_known
) -> None:
    class Own(keras.Sequential):
        def make_train_function(self, force: bool = False):
            def train_function(iterator):
                return {"loss": tf.reduce_mean(self(next(iterator)[0], training=True))}

            self.train_function = train_function

    model = Own([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile()
    model.fit(
        *data, batch_size=8, verbose=0, callbacks=[TensorBoard(tmp_path, global_batch_size=global_batch_size)]
    )
    train = _read(tmp_path / "train")
    assert ("throughput/examples_per_sec" in train) == rate_is_known
    assert "step_time/total_ms" in train
    assert "step_time/input_ms" not in train


def test_other_workers_write_nothing_but_take_part(model, data, tmp_path: Path, become_worker) -> None:
    met = become_worker(1, 2)
    model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[TensorBoard(tmp_path, profile_batch=2)])
    assert not list(tmp_path.iterdir())
    assert met == ["tensorboard"] * 2


def test_chief_adds_up_the_workers(probed_model, tmp_path: Path, become_worker) -> None:
    become_worker(0, 2)
    x = {"token_ids": np.ones((16, 3), "int32"), "padding_mask": np.ones((16, 3), "int32")}
    probed_model.fit(x, np.ones((16, 1)), batch_size=4, verbose=0, callbacks=[TensorBoard(tmp_path)])
    train = {tag: rows[0][1] for tag, rows in _read(tmp_path / "train").items()}
    assert train["throughput/examples_per_sec"] * train["step_time/total_ms"] / 1000 == pytest.approx(
        8, rel=1e-4
    )
    assert train["step_time/waiting_ms"] == pytest.approx(0)  # the other is a copy, so nobody waits


def test_evaluation_alone(model, data, tmp_path: Path) -> None:
    model.fit(*data, batch_size=8, verbose=0)
    result = model.evaluate(*data, verbose=0, return_dict=True, callbacks=[TensorBoard(tmp_path)])
    assert _read(tmp_path / "validation") == {
        f"evaluation_{name}_vs_iterations": [(5, pytest.approx(value))] for name, value in result.items()
    }


def test_text_of_strategy_and_configuration(model, data, tmp_path: Path) -> None:
    callback = TensorBoard(tmp_path, run_config={"run": RunConfig(), "note": "a|b"})
    model.fit(*data, verbose=0, callbacks=[callback])
    train = _read(tmp_path / "train")
    strategy, config = train["run/strategy"][0][1].decode(), train["run/config"][0][1].decode()
    assert "| optimizer | SGD |" in strategy
    assert "| parameters | 10 |" in strategy
    assert "| run.training.global_batch_size | 32 |" in config
    assert "| note | a\\|b |" in config


def test_profile_of_two_steps(model, data, tmp_path: Path) -> None:
    model.fit(
        *data, batch_size=8, epochs=2, verbose=0, callbacks=[TensorBoard(tmp_path, profile_batch="4,6")]
    )
    assert len(list((tmp_path / "train" / "plugins" / "profile").iterdir())) == 1
    tf.profiler.experimental.start(str(tmp_path / "other"))  # nothing is left running
    tf.profiler.experimental.stop(save=False)


def test_another_profiler_is_left_alone(model, data, tmp_path: Path, caplog) -> None:
    tf.profiler.experimental.start(str(tmp_path / "other"))
    try:
        model.fit(*data, batch_size=8, verbose=0, callbacks=[TensorBoard(tmp_path, profile_batch=2)])
    finally:
        tf.profiler.experimental.stop(save=False)
    assert "Steps 2 to 2 are not profiled" in caplog.text


@pytest.mark.parametrize("profile_batch", [-1, (5, 2), (1, 2, 3), "x", (0, 3), (), None])
def test_profile_batch_is_checked(profile_batch) -> None:
    with pytest.raises(ConfigError, match="no step or pair of steps"):
        TensorBoard("logs", profile_batch=profile_batch)


@pytest.mark.parametrize("update_freq", ["step", 0, -1, 1.5])
def test_update_freq_is_checked(update_freq) -> None:
    with pytest.raises(ConfigError, match='Give "epoch", "batch" or a number'):
        TensorBoard("logs", update_freq=update_freq)


def test_keras_need_not_wait_for_the_logs_of_each_step(model, data, tmp_path: Path) -> None:
    callbacks = keras.callbacks.CallbackList([TensorBoard(tmp_path), Throughput()], model=model)
    assert all(callback.async_safe for callback in callbacks.callbacks)
    assert list(tmp_path.iterdir()) == []  # and nothing is written before there is something
