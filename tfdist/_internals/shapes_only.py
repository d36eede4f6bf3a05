"""Builds a model and its optimizer with paths and shapes for their variables, but without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras.src.backend.common import global_state

_WAITING = "uninitialized_variables"


def build_valueless(
    build: Callable[[], keras.Model], optimizer: keras.optimizers.Optimizer | None
) -> tuple[keras.Model, dict[str, Any]]:
    """Returns the model, and the weight that each variable of the optimizer belongs to, by the variable's path.

    Args:
        build: Builds the model. It must not assign values to the weights.
        optimizer: An optimizer that is built for the model. It cannot be used afterwards.
    """
    references: dict[str, Any] = {}
    # At the end of the next stateless scope, Keras gives a value to every variable on this list.
    waiting = global_state.get_global_attribute(_WAITING, [])
    global_state.set_global_attribute(_WAITING, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = build()
            if optimizer is not None:
                _note_references(optimizer, references)
                optimizer.build(model.trainable_variables)
    finally:
        global_state.set_global_attribute(_WAITING, waiting)
    return model, references


def _note_references(optimizer: Any, references: dict[str, Any]) -> None:
    stock = optimizer.add_variable_from_reference

    def add_variable_from_reference(reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        variable = stock(reference_variable, *args, **kwargs)
        references[variable.path] = reference_variable
        return variable

    optimizer.add_variable_from_reference = add_variable_from_reference
    # Stock asks the value of a variable for its key, and these variables have no value.
    optimizer._var_key = id
