"""`TensorBoard`: one page for the whole run, written by the chief."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from tfdist._internals.contract import distribution_of
from tfdist._internals.processes.coordination import all_gather_json
from tfdist.callbacks.throughput import THROUGHPUT_LOG
from tfdist.errors import ConfigError
from tfdist.measure.cluster_interval import summarize
from tfdist.measure.gradient_norm import GradientNorm
from tfdist.measure.learning_rate import current_learning_rate
from tfdist.measure.memory import memory_gib
from tfdist.measure.run_description import describe_config, describe_strategy
from tfdist.measure.step_meter import Interval, StepMeter
from tfdist.measure.step_profile import StepProfile
from tfdist.process import is_chief


class TensorBoard(keras.callbacks.Callback):
    """Writes losses, metrics, speed, memory and a description of the run for TensorBoard.

    The runs are `train` and `validation`. Losses and metrics are `epoch_*` by epoch, as in Keras's own callback. The
    following are by training step: the speed (`throughput/`, `step_time/`), the state of the optimizer (`optimizer/`),
    `memory/`, what a strategy measures of its own (`communication/`, `local_steps/`) and, with an `update_freq` in
    steps, the logs within the epoch (`batch/`). Give the callback to `fit` on every worker: only the chief writes, but
    all workers send it their times.

    Args:
        log_dir: Folder of the run.
        update_freq: "epoch", "batch", or the number of training steps between two writes. A write reads values from
            the device, and so waits for the step that runs. Between writes nothing waits.
        profile_batch: Steps of a fit to profile on the chief: 0 for none, a step, `(first, last)` or
            `"first,last"`.
        run_config: Dataclass or mapping that is shown as a table.
        global_batch_size: Examples in one step over all replicas; needed only for models with a training
            function of their own, where they cannot be counted.

    Raises:
        ConfigError: `update_freq` or `profile_batch` is not one of the above.
    """

    async_safe = True  # on_train_batch_end only writes a summary, so Keras need not wait for each step's logs

    def __init__(
        self,
        log_dir: str = "logs",
        *,
        update_freq: Literal["epoch", "batch"] | int = "epoch",
        profile_batch: int | str | tuple[int, int] = 0,
        run_config: Any = None,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if update_freq not in ("epoch", "batch") and not (isinstance(update_freq, int) and update_freq > 0):
            raise ConfigError(
                f'update_freq={update_freq!r} is not allowed. Give "epoch", "batch" or a number of steps.'
            )
        self.log_dir = str(log_dir)
        self.update_freq = None if update_freq == "epoch" else 1 if update_freq == "batch" else update_freq
        self.run_config = run_config
        self.global_batch_size = global_batch_size
        self._profile = StepProfile(str(Path(self.log_dir) / "train"), profile_batch)
        self._writers: dict[str, Any] = {}
        self._in_fit = False

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if getattr(model, "optimizer", None) is not None:
            self._gradient_norm = GradientNorm.of(model.optimizer)
        if (distribution := distribution_of(model.distribute_strategy)) is not None:
            distribution.watch()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._in_fit = True
        self._meter = StepMeter(self.model, self.global_batch_size, self.params["steps"])
        self._steps_before_epoch = 0
        self._is_described = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._last_write = 0
        self._is_training = True
        self._meter.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if is_chief():
            self._profile.begin_step(self._steps_before_epoch + batch + 1)
        if batch > 0:
            self._describe()
        if self.update_freq and batch - self._last_write >= self.update_freq:
            self._last_write = batch
            self._write_system(batch)
        self._meter.begin_step(batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Keras often calls this in another thread, as soon as the logs are there.
        self._meter.end_step(batch)
        if self.update_freq and (batch + 1) % self.update_freq < self.model.steps_per_execution:
            scalars = {f"batch/{name}": value for name, value in _scalars(logs).items()}
            # If the last execution of an epoch has fewer steps, Keras counts it as a whole one.
            step = min(batch + 1, self.params["steps"] or batch + 1)
            self._write("train", scalars, self._meter.first_iteration + step)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._end_training()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._end_training()
        train: dict[str, float] = {"epoch_learning_rate": current_learning_rate(self.model.optimizer)}
        validation: dict[str, float] = {}
        for name, value in _scalars(logs).items():
            if name.startswith("val_"):
                validation[f"epoch_{name.removeprefix('val_')}"] = value
            else:
                train[f"epoch_{name}"] = value
        self._write("train", train, epoch)
        self._write("validation", validation, epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self._in_fit:  # in a fit, on_epoch_end writes the same values
            step = (
                0
                if self.model.optimizer is None
                else int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
            )
            scalars = {f"evaluation_{name}_vs_iterations": value for name, value in _scalars(logs).items()}
            self._write("validation", scalars, step)
            self._close()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._in_fit = False
        self._profile.stop()
        self._close()

    def _end_training(self) -> None:
        """Ends the training part of an epoch; its time has no validation and no saving."""
        if not self._in_fit or not self._is_training:
            return
        self._is_training = False
        self._profile.end_step()
        self._describe()
        num_steps = self._meter.num_steps()
        self._steps_before_epoch += num_steps
        if self._last_write == 0:  # after a write within the epoch, too few steps are left to be timed
            self._write_system(num_steps)

    def _describe(self) -> None:
        """Writes the description of the run; after the first step, when every model is built."""
        if self._is_described or not is_chief():
            return
        self._is_described = True
        with self._writer("train").as_default(0):
            tf.summary.text("run/strategy", describe_strategy(self.model))
            if self.run_config is not None:
                tf.summary.text("run/config", describe_config(self.run_config))

    def _write_system(self, step: int) -> None:
        """Writes speed, memory and the state of the optimizer after the first `step` steps of the epoch."""
        interval = self._meter.measure(step)
        if interval is None:
            return
        intervals = all_gather_json("tensorboard", asdict(interval))
        distribution = distribution_of(self.model.distribute_strategy)
        if is_chief():
            scalars = summarize([Interval(**worker) for worker in intervals])
            scalars |= self._optimizer_scalars() | memory_gib()
            scalars |= distribution.figures(self.model) if distribution is not None else {}
            self._write("train", scalars, self._meter.first_iteration + step)

    def _optimizer_scalars(self) -> dict[str, float]:
        optimizer = self.model.optimizer
        scalars = {}
        if self.update_freq:  # without it, epoch_learning_rate has the same value
            scalars["optimizer/learning_rate"] = current_learning_rate(optimizer)
        values = {
            "optimizer/loss_scale": getattr(optimizer, "dynamic_scale", None),
            "optimizer/gradient_norm": self._gradient_norm.read(),
        }
        for tag, value in values.items():
            if value is not None:
                scalars[tag] = float(keras.ops.convert_to_numpy(value))
        return scalars

    def _write(self, run: str, scalars: dict[str, float], step: int) -> None:
        if is_chief() and scalars:
            with self._writer(run).as_default(step):
                for tag, value in scalars.items():
                    tf.summary.scalar(tag, value)

    def _writer(self, run: str) -> Any:
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(Path(self.log_dir) / run))
        return self._writers[run]

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def _scalars(logs: dict[str, Any] | None) -> dict[str, float]:
    """Returns the logs that are plain numbers, without the speed and the learning rate, which have their own tags."""
    return {
        name: float(value)
        for name, value in (logs or {}).items()
        if name not in (THROUGHPUT_LOG, "learning_rate") and isinstance(value, (int, float))
    }
