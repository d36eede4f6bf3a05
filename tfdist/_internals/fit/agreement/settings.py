"""What a call was told, and how the model was compiled, must be the same in all processes; what is not is named."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.processes.seed import global_seed
from tfdist.errors import WorkerError
from tfdist.log import warn_once

_SEED = "the random seed (keras.utils.set_random_seed must be given the same number everywhere)"
# Only their presence is compared: the values are data.
_PRESENCE = ("validation_data", "sample_weight", "class_weight")
# Keras's callbacks that change no training and need no other worker, so that one alone may have them.
_ALONE = (
    keras.callbacks.TensorBoard,
    keras.callbacks.CSVLogger,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.History,
)
_OWN_CALLBACKS = "the callbacks of your own"


def settings_of(model: Any, name: str, given: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """Returns what must be the same in all processes, as subject -> values, ready for JSON.

    Args:
        model: The model.
        name: The call.
        given: Its arguments.
        settings: The names of the arguments that are compared by value.
    """
    arguments = {key: given[key] for key in settings if isinstance(given.get(key), int | float | str | None)}
    arguments |= {key: given[key] is not None for key in _PRESENCE if key in given}
    found: dict[str, Any] = {
        # Another build may compute otherwise, and another version of Keras may train otherwise.
        "the versions of packages": {package.__name__: package.__version__ for package in (tf, keras, np)},
        "the build of TensorFlow": tf.version.GIT_VERSION,
        f"the arguments of {name}": arguments,
        _SEED: global_seed(),
    }
    if given.get("class_weight"):
        found["class_weight"] = {str(key): float(value) for key, value in given["class_weight"].items()}
    found |= _of_callbacks(given.get("callbacks"))
    if name != "predict":
        found |= _of_compile(model)
    return found


def check_settings(found: list[dict[str, Any]]) -> None:
    """Compares the settings of all processes.

    Raises:
        WorkerError: They differ; the message names what differs, with the value of each process.
    """
    flat = [_flat(one) for one in found]
    for key in dict.fromkeys(key for one in flat for key in one):
        values = [one.get(key) for one in flat]
        if all(value == values[0] for value in values):
            continue
        listed = "; ".join(f"worker {index}: {value!r}" for index, value in enumerate(values))
        if key == _OWN_CALLBACKS:
            warn_once(
                f"the workers do not have the same callbacks: {listed}. One that saves, evaluates, reads weights or "
                "changes the training must be given to every worker."
            )
            continue
        raise WorkerError(
            f"the workers do not agree on {key}: {listed}. All workers must run the same script with the same packages "
            "and settings; start them with the same command."
        )


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {path: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = f"{path}, {key}" if path else str(key)
        found |= _flat(value, inner)
    return found


def _of_callbacks(callbacks: Any) -> dict[str, list[str]]:
    listed = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] if callbacks else []
    stock: list[str] = []
    own: list[str] = []
    for one in map(type, listed):
        if any(base in _ALONE for base in one.__mro__) and one.__module__.partition(".")[0] in (
            "keras",
            "tfdist",
        ):
            continue
        is_known = one.__module__.partition(".")[0] in ("keras", "tfdist")
        (stock if is_known else own).append(one.__name__)
    return {"the callbacks": stock, _OWN_CALLBACKS: own}


def _of_compile(model: Any) -> dict[str, Any]:
    parts = {
        "the optimizer": getattr(model, "optimizer", None),
        "the loss": getattr(getattr(model, "_compile_loss", None), "_user_loss", None),
        "the loss weights": getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None),
        "the metrics": getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None),
        "steps_per_execution": getattr(model, "steps_per_execution", None),
        "jit_compile": getattr(model, "jit_compile", None),
        "run_eagerly": getattr(model, "run_eagerly", None),
    }
    return {subject: _plain(part) for subject, part in parts.items()}


def _plain(part: Any) -> Any:
    """Returns a part of `compile` as JSON; for what has no such form, its type."""
    try:
        plain = json.loads(json.dumps(keras.saving.serialize_keras_object(part), default=_number_or_type))
    except Exception:  # whatever an object of the user's own raises: it cannot be compared
        return type(part).__name__
    return _without_names(plain)


def _number_or_type(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else type(value).__name__


def _without_names(plain: Any) -> Any:
    # A process that has made another model before counts its names on.
    if isinstance(plain, dict):
        return {key: _without_names(value) for key, value in plain.items() if key != "name"}
    return [_without_names(value) for value in plain] if isinstance(plain, list) else plain
