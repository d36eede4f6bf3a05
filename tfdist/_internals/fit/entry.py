"""`fit`, `evaluate` and `predict` check what would fail later or train wrong, and keep the workers together.

Stock shows one progress bar a worker, lets every worker write the same files, and leaves the others waiting for ever
when one raises an error or stops by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import callbacks as keras_callbacks
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from tfdist._internals.processes.coordination import agree, all_gather_json, barrier, report_failure
from tfdist._internals.processes.seed import global_seed
from tfdist._internals.registry import Patch
from tfdist._internals.replica.batches import needs_replica_batches
from tfdist.errors import UnsupportedError
from tfdist.process import is_chief, num_processes, process_index

# What turns Keras's file-writing callbacks into ones for several workers; set by the strategies, which stand above.
_adapters: list[Callable[[list[Any]], list[Any]]] = []


def set_callback_adapter(adapter: Callable[[list[Any]], list[Any]]) -> None:
    """Sets the function that `fit` under several workers applies to its callbacks."""
    _adapters[:] = [adapter]


class _StopTogether(keras_callbacks.Callback):
    """Makes `stop_training` take hold on all workers after the same step; stands last in the list.

    A worker that wants to stop says so with the next step's gradients, and at the end of an epoch by the
    coordination service.
    """

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        agreed = float(self.model._tfdist_stop) > 0
        self.model._tfdist_wants_stop = self.model._tfdist_wants_stop or self.model.stop_training
        self.model.stop_training = agreed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        wants = bool(self.model.stop_training or self.model._tfdist_wants_stop)
        self.model.stop_training = any(all_gather_json("stop at the end of an epoch", wants))

    def on_train_begin(self, logs: Any = None) -> None:
        self.model._tfdist_wants_stop = False


def _check_scope(model: Any) -> None:
    """Refuses a model or optimizer that was made outside of the strategy's scope."""
    strategy = model.distribute_strategy
    outer = tf.distribute.get_strategy()
    if needs_replica_batches(outer) and outer is not strategy:
        raise UnsupportedError(
            f"the model {model.name!r} was made outside of strategy.scope(), and is used inside of it: its variables "
            "are on one device. Make or load the model under `with strategy.scope():`; fit then needs no scope."
        )
    optimizer = getattr(model, "optimizer", None)
    for part in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        made_under = getattr(part, "_distribution_strategy", strategy)
        if part is not None and needs_replica_batches(strategy) and made_under is not strategy:
            raise UnsupportedError(
                f"the optimizer {part.name!r} was made outside of strategy.scope(): its counters are on one device. "
                "Make the optimizer under `with strategy.scope():`, or compile with its name, as 'adam'."
            )


def _bound(stock: Any, model: Any, args: Any, kwargs: Any) -> inspect.BoundArguments:
    bound = inspect.signature(stock).bind(model, *args, **kwargs)
    bound.apply_defaults()
    return bound


def _several_workers(stock: Any, settings: tuple[str, ...]) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        _check_scope(self)
        strategy = self.distribute_strategy
        if needs_replica_batches(strategy):
            strategy.prepare_seeds()
        if not needs_replica_batches(strategy) or num_processes() == 1:
            return stock(self, *args, **kwargs)
        bound = _bound(stock, self, args, kwargs)
        given = bound.arguments
        if not is_chief():
            given["verbose"] = 0
        outermost = not isinstance(given.get("callbacks"), keras_callbacks.CallbackList)
        try:
            if outermost:
                _meet(stock.__name__, given, settings)
                given["callbacks"] = _callbacks(given.get("callbacks"), training=stock.__name__ == "fit")
            result = stock(*bound.args, **bound.kwargs)
            if outermost:
                # A worker that goes on, and ends, breaks the collectives of one that is late.
                barrier(f"the end of {stock.__name__}")
            return result
        except (SystemExit, KeyboardInterrupt) as error:
            # An exception may be caught by the script, on all workers alike; these end it (see `process_end`).
            report_failure(
                f"worker {process_index()} left {stock.__name__}: {type(error).__name__} {error}".rstrip()
            )
            raise

    return call


def _meet(name: str, given: dict[str, Any], settings: tuple[str, ...]) -> None:
    """Checks that the workers were told the same, before the first collective."""
    agree(
        f"the arguments of {name}",
        {key: given[key] for key in settings if isinstance(given.get(key), int | float | str | bool | None)},
    )
    agree(
        "the random seed (keras.utils.set_random_seed must be given the same number everywhere)",
        global_seed(),
    )


def _callbacks(callbacks: Any, training: bool) -> list[Any]:
    listed = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] if callbacks else []
    for adapter in _adapters:
        listed = adapter(listed)
    return [*listed, _StopTogether()] if training else listed


def _patch(attribute: str, settings: tuple[str, ...]) -> Patch:
    return Patch(
        name="fit",
        owner=TensorFlowTrainer,
        attribute=attribute,
        make=lambda stock: _several_workers(stock, settings),
        reason="workers that fail or stop alone leave the others waiting; all of them write files and progress",
        upstream="https://github.com/tensorflow/tensorflow/issues/35878, https://github.com/tensorflow/tensorflow/issues/38635",
    )


PATCHES = (
    _patch(
        "fit", ("batch_size", "epochs", "initial_epoch", "steps_per_epoch", "validation_steps", "shuffle")
    ),
    _patch("evaluate", ("batch_size", "steps")),
    _patch("predict", ("batch_size", "steps")),
)
