"""Models and optimizers built for the paths and shapes of their variables, which get no value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras.src.backend.common import global_state

_WAITING = "uninitialized_variables"


def build_valueless(
    build: Callable[[], keras.Model], optimizer: keras.optimizers.Optimizer | None
) -> tuple[keras.Model, dict[str, Any]]:
    """Returns the model, and for each variable of the optimizer's, by its path, the weight that it belongs to.

    Args:
        build: Builds the model, and assigns nothing to its weights.
        optimizer: Is built too; of no use afterwards.
    """
    references: dict[str, Any] = {}
    # Keras gives every variable on this list a value at the end of the next stateless scope.
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
    # On TensorFlow it is a property of the value.
    optimizer._var_key = id
