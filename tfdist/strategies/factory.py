"""`create_strategy`: a strategy by name."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import tensorflow as tf

from tfdist._internals.fit.entry import set_callback_adapter
from tfdist._internals.registry import apply_patches
from tfdist.callbacks.chief_aware import adopt_callbacks
from tfdist.errors import ConfigError, did_you_mean

# Name -> module and function or class; each module is imported when its strategy is asked for.
_STRATEGIES = {
    "auto": ("tfdist.strategies.auto", "auto"),
    "mesh": ("tfdist.strategies.mesh", "Mesh"),
    "mirrored": ("tfdist.strategies.mirrored", "Mirrored"),
    "multi_worker_mirrored": ("tfdist.strategies.multi_worker_mirrored", "MultiWorkerMirrored"),
    "one_device": ("tfdist.strategies.one_device", "one_device"),
    "tpu": ("tfdist.strategies.tpu", "tpu"),
}

_EXAMPLES = {"mesh": "mesh={'batch': 2, 'model': 2}"}


def list_strategies() -> list[str]:
    """Returns the names that `create_strategy` takes."""
    return sorted(_STRATEGIES)


def create_strategy(name: str = "auto", **options: Any) -> tf.distribute.Strategy:
    """Returns the strategy called `name`; call it first, before any tensor, layer or dataset is made.

    Args:
        name: One of `list_strategies()`. `auto` picks by the cluster that the environment describes and the devices
            of this host.
        **options: What that strategy takes; see its class. None means the default.

    Raises:
        ConfigError: An unknown name or option, or a value that is not allowed.
        ClusterError: The cluster or its description does not fit, or TensorFlow already runs.
    """
    if name not in _STRATEGIES:
        raise ConfigError(
            f"there is no strategy {name!r}; there are {list_strategies()}.{did_you_mean(name, _STRATEGIES)}"
        )
    module, attribute = _STRATEGIES[name]
    build = getattr(importlib.import_module(module), attribute)
    allowed = list(inspect.signature(build).parameters)
    options = {option: value for option, value in options.items() if value is not None}
    for option in options:
        if option not in allowed:
            raise ConfigError(
                f"the strategy {name!r} has no option {option!r}; it takes {allowed or 'none'}."
                f"{did_you_mean(option, allowed)}"
            )
    _check_given(name, build, options)
    strategy = build(**options)
    apply_patches()
    set_callback_adapter(adopt_callbacks)
    return strategy


def _check_given(name: str, build: Any, options: dict[str, Any]) -> None:
    for parameter in inspect.signature(build).parameters.values():
        if parameter.default is inspect.Parameter.empty and parameter.name not in options:
            example = _EXAMPLES.get(parameter.name, f"{parameter.name}=...")
            raise ConfigError(
                f"the strategy {name!r} needs the option {parameter.name!r}, which was not given. Say for example "
                f"create_strategy({name!r}, {example})."
            )
