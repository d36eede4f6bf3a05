"""`fit`, `evaluate` and `predict` first check what would fail later or train wrong, and keep the processes together.

Stock shows one progress bar for each worker, and lets every worker write the same files. When one worker raises an
error or stops by itself, the others wait for ever. `compile` runs in the scope of the model's strategy, so that it may
be called outside: `model.compile("adam", ...)`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import callbacks as keras_callbacks
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.trainers.trainer import Trainer

from tfdist._internals import keras_state
from tfdist._internals.contract import Distribution, distribution_of
from tfdist._internals.fit.agreement.meetings import begin_call, end_call
from tfdist._internals.fit.build import rebuild
from tfdist._internals.fit.run import run_of
from tfdist._internals.fit.source import call_scope, current_call
from tfdist._internals.fit.stop import StopTogether, may_stop_in_an_epoch
from tfdist._internals.patch import Patch
from tfdist._internals.processes.coordination import report_failure
from tfdist._internals.processes.place import in_call, line_of
from tfdist._internals.processes.watch import causes_named
from tfdist.errors import UnsupportedError
from tfdist.process import is_chief, num_processes, process_index

Callbacks = list[Any]

# The function that turns Keras's file-writing callbacks into ones for several processes, if it is set. The package
# `callbacks` stands above this one, so it cannot be imported here.
_adapters: list[Callable[[Callbacks, Any], Callbacks]] = []


def set_callback_adapter(adapter: Callable[[Callbacks, Any], Callbacks]) -> None:
    """Sets the function of callbacks and model that `fit` in several processes applies to its callbacks."""
    _adapters[:] = [adapter]


def _check_scope(model: Any) -> None:
    """Refuses a model or optimizer that was made outside of the strategy's scope."""
    strategy, outer = model.distribute_strategy, tf.distribute.get_strategy()
    if distribution_of(outer) is not None and outer is not strategy:
        raise UnsupportedError(
            f"the model {model.name!r} was made outside of strategy.scope(), and is used inside of it: its variables "
            "are on one device. Make or load the model under `with strategy.scope():`; fit then needs no scope."
        )
    if distribution_of(strategy) is None:
        return
    # A model with several optimizers has those of the user's own as attributes.
    _check_optimizers(strategy, vars(model).values())


def _compiled_in_scope(stock: Any) -> Any:
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def compile(model: Any, *args: Any, **kwargs: Any) -> None:  # noqa: A001 (as Keras calls it)
        distribution = distribution_of(model.distribute_strategy)
        # Keras's default is "auto" too, and means that there is no XLA under a strategy. Here it is asked for.
        asked = signature.bind(model, *args, **kwargs).arguments.get("jit_compile")
        run_of(model).chooses_compilation = asked == "auto"
        if distribution is None:
            stock(model, *args, **kwargs)
        else:
            _compile(distribution, stock, model, *args, **kwargs)

    return compile


def _compile(distribution: Distribution, stock: Any, model: Any, *args: Any, **kwargs: Any) -> None:
    strategy: Any = distribution
    if tf.distribute.has_strategy():  # in this scope already, or in another one, which `fit` refuses
        scope: Any = contextlib.nullcontext()
    else:
        _check_optimizers(strategy, [*args[:1], kwargs.get("optimizer")])
        scope = strategy.scope()
    with scope:
        stock(model, *args, **kwargs)
    if current_call() == "fit":
        # A callback compiles in the middle of `fit`. Stock then calls a training function that is None.
        rebuild(distribution, model)
        model.make_train_function()


def _check_optimizers(strategy: Any, given: Any) -> None:
    """Refuses an optimizer that was made outside of the strategy's scope.

    Raises:
        UnsupportedError: There is one among the values `given`.
    """
    for value in given:
        for part in (value, getattr(value, "inner_optimizer", None)):
            if isinstance(part, BaseOptimizer) and part._distribution_strategy is not strategy:
                raise UnsupportedError(
                    f"the optimizer {part.name!r} was made outside of strategy.scope(): its counters are on one "
                    "device. Make it under `with strategy.scope():` and compile again; an optimizer that compile is "
                    "given by name, as 'adam', is made there by itself."
                )


def _entry(settings: tuple[str, ...]) -> Callable[[Any], Any]:
    def make(stock: Any) -> Any:
        signature = inspect.signature(stock)

        @functools.wraps(stock)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            _check_scope(self)
            distribution = distribution_of(self.distribute_strategy)
            with call_scope(stock.__name__), in_call(stock.__name__):
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                run_of(self).is_shown = is_chief() and bound.arguments["verbose"] != 0
                if distribution is None:
                    return stock(self, *args, **kwargs)
                distribution.prepare(self, stock.__name__)
                # No variable can be made in a step. To make one is a collective, and so the processes meet first.
                drawing = _drawing(distribution, stock)
                if num_processes() == 1:
                    return drawing(self, *args, **kwargs)
                return _together(drawing, settings, self, bound)

        return call

    return make


def _drawing(distribution: Distribution, stock: Any) -> Any:
    @functools.wraps(stock)
    def drawing(model: Any, *args: Any, **kwargs: Any) -> Any:
        with keras_state.placed_seed_generator(distribution):
            result = stock(model, *args, **kwargs)
            if stock.__name__ == "fit":
                distribution.settle(model, slots=True)
            return result

    return drawing


def _together(stock: Any, settings: tuple[str, ...], model: Any, bound: inspect.BoundArguments) -> Any:
    """Runs a call that all processes make. They meet before it and after it."""
    given = bound.arguments
    if not is_chief():
        given["verbose"] = 0
    # An evaluate inside of fit is given the list of callbacks that fit has made.
    outermost = not isinstance(given.get("callbacks"), keras_callbacks.CallbackList)
    try:
        with causes_named():
            if outermost:
                callbacks = _adapted(given.get("callbacks"), model)
                votes = begin_call(
                    model, stock.__name__, given, settings, may_stop=may_stop_in_an_epoch(callbacks)
                )
                given["callbacks"] = (
                    [*callbacks, StopTogether(votes)] if stock.__name__ == "fit" else callbacks
                )
            result = stock(*bound.args, **bound.kwargs)
            if outermost:
                end_call(model, stock.__name__)
        return result
    except (SystemExit, KeyboardInterrupt) as error:
        # Other exceptions are not reported here: the script may catch them, in all processes alike. These two end
        # the process (see `processes.end`).
        how = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else "KeyboardInterrupt"
        report_failure(f"worker {process_index()} left {stock.__name__} by {how}{line_of(error)}")
        raise


def _adapted(callbacks: Any, model: Any) -> Callbacks:
    listed = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] if callbacks else []
    for adapter in _adapters:
        listed = adapter(listed, model)
    return listed


def _patch(attribute: str, settings: tuple[str, ...]) -> Patch:
    return Patch(
        name="fit.entry",
        owner=TensorFlowTrainer,
        attribute=attribute,
        make=_entry(settings),
        reason="workers that fail or stop alone leave the others waiting; all of them write files and progress",
        upstream="https://github.com/tensorflow/tensorflow/issues/35878, https://github.com/tensorflow/tensorflow/issues/38635",
    )


PATCHES = (
    _patch(
        "fit",
        (
            *("batch_size", "epochs", "initial_epoch", "steps_per_epoch", "shuffle"),
            *("validation_split", "validation_steps", "validation_batch_size", "validation_freq"),
        ),
    ),
    _patch("evaluate", ("batch_size", "steps")),
    _patch("predict", ("batch_size", "steps")),
    Patch(
        name="fit.entry",
        owner=Trainer,
        attribute="compile",
        make=_compiled_in_scope,
        reason="compile outside of the scope makes an optimizer by name, and metrics, on one device; "
        "jit_compile='auto' means no XLA under a strategy, whether it would be faster or not",
        upstream="no thread found",
    ),
)
