"""Everything that the rest of a training run depends on, by name.

Each part can be read and set. A model that was built alike and has all of them set goes on as if the run had never been
interrupted. The position within an epoch is not a part: the caller skips the batches that are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.contract import distribution_of
from tfdist._internals.keras_state import drawn_seed_generator
from tfdist._internals.processes import seed
from tfdist.data.by_index import by_index_of
from tfdist.errors import UnsupportedError


class StatePart(NamedTuple):
    """One part of the state.

    Attributes:
        read: Returns the value: an array, a number, or what JSON can hold.
        write: Sets it.
    """

    read: Callable[[], Any]
    write: Callable[[Any], None]


def named_state(
    model: keras.Model, callbacks: Iterable[Any] = (), dataset: tf.data.Dataset | None = None
) -> dict[str, StatePart]:
    """Returns the parts of the state of a built model's training.

    Args:
        model: Built, and its optimizer too.
        callbacks: Those that `fit` is given; each that has `get_state` and `set_state` is a part.
        dataset: What `fit` trains on; one of `tfdist.data` is a part.

    Returns:
        Name -> part. The names begin with `weights/`, `optimizer/` (slots, counters, loss scale, averages, open
        accumulation), `metrics/`, `seeds/`, `strategy/` (the outer momentum of local steps, and what of the gradients
        was not sent yet, of all replicas), `data/` and `callbacks/`. All processes call this, and read and set what is
        under `strategy/` together.

    Raises:
        UnsupportedError: The model or its optimizer is not built.
    """
    optimizer = model.optimizer
    if not model.built or not getattr(optimizer, "built", True):
        raise UnsupportedError(
            f"the state of {model.name!r} has no names yet, since the model or its optimizer is not built. Build both, "
            "for example with model.build(shape) and model.optimizer.build(model.trainable_variables)."
        )
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    in_metrics = {id(variable) for variable in metrics}
    parts = _of_variables("weights", (v for v in model.variables if id(v) not in in_metrics))
    parts |= _of_variables("optimizer", optimizer.variables if optimizer is not None else ())
    parts |= _of_variables("metrics", metrics)
    distribution = distribution_of(model.distribute_strategy)
    if distribution is not None:
        # A state is read between two steps, and what a step has left open is no state.
        distribution.settle(model, slots=True)
        own = distribution.own_state(model)
        parts |= {f"strategy/{name}": StatePart(*pair) for name, pair in own.items()}
    parts |= _of_seeds()
    by_index = None if dataset is None else by_index_of(dataset)
    if by_index is not None:
        epochs = by_index.epochs
        parts["data/epoch"] = StatePart(
            lambda: epochs.next, lambda value: setattr(epochs, "next", int(value))
        )
    for index, callback in enumerate(callbacks):
        if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
            name = f"callbacks/{index}/{type(callback).__name__}"
            parts[name] = StatePart(callback.get_state, callback.set_state)
    return parts


def _of_variables(kind: str, variables: Iterable[Any]) -> dict[str, StatePart]:
    parts: dict[str, StatePart] = {}
    for variable in variables:
        name = f"{kind}/{variable.path}"
        # Paths of variables are unique, unless two layers were given the same name by hand.
        while name in parts:
            name += "'"
        parts[name] = _of_variable(variable)
    return parts


def _of_variable(variable: Any) -> StatePart:
    return StatePart(lambda: np.asarray(keras.ops.convert_to_numpy(variable)), variable.assign)


def _of_seeds() -> dict[str, StatePart]:
    """The seed of TensorFlow, and the generator of the functions of `keras.random` that are given no seed."""
    parts = {"seeds/tensorflow": StatePart(seed.global_seed, tf.random.set_seed)}
    generator = drawn_seed_generator()
    if generator is not None:
        parts["seeds/keras"] = _of_variable(generator.state)
    return parts
