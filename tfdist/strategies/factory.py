"""`create_strategy` makes a strategy by its name, and `register_strategy` adds a name."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfdist._internals.check import mode_of
from tfdist._internals.contract import Distribution
from tfdist._internals.fit.entry import set_callback_adapter
from tfdist._internals.patches import apply_patches
from tfdist._internals.processes.memory import keep_freed_memory
from tfdist._internals.step.compiled_update import checked_choice, set_compiled_update
from tfdist._internals.step.repeated_rows import checked, set_repeated_rows
from tfdist.callbacks.chief_aware import chief_aware_callbacks
from tfdist.cluster.environments import detect_cluster
from tfdist.config.rules import load_rules
from tfdist.config.schema import Given
from tfdist.config.values import parse_text
from tfdist.errors import ClusterError, ConfigError, did_you_mean
from tfdist.log import warn_once
from tfdist.process import num_processes

# Name -> module and function or class; each module is imported when its strategy is asked for.
_STRATEGIES = {
    "auto": ("tfdist.strategies.auto", "auto"),
    "mesh": ("tfdist.strategies.mesh", "Mesh"),
    "mirrored": ("tfdist.strategies.mirrored", "Mirrored"),
    "multi_worker_mirrored": ("tfdist.strategies.multi_worker_mirrored", "MultiWorkerMirrored"),
    "one_device": ("tfdist.strategies.one_device", "one_device"),
    "tpu": ("tfdist.strategies.tpu", "tpu"),
}
_registered: dict[str, Callable[..., Any]] = {}

# Examples of options that must be given, in Python and as a flag.
_EXAMPLES = {"mesh": ("mesh={'batch': 2, 'model': 2}", "--mesh batch=2,model=2")}


def list_strategies() -> list[str]:
    """Returns the names that `create_strategy` takes."""
    return sorted([*_STRATEGIES, *_registered])


def register_strategy(name: str, build: Callable[..., tf.distribute.Strategy]) -> None:
    """Adds a strategy of your own to `create_strategy` and to the commands, which import its module by `--import`.

    Args:
        name: The new name.
        build: A class or function that returns a strategy. Its keyword arguments are the options. If an option is given
            as text, as on the command line, its annotation says how the text is read.

    Raises:
        ConfigError: The name is taken or is not an identifier, or `build` cannot be called.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(
            f"{name!r} cannot be the name of a strategy; a name is letters, digits and underscores, as 'my_strategy'."
        )
    if name in list_strategies():
        raise ConfigError(
            f"there is a strategy {name!r} already, beside {list_strategies()}. Give yours another name."
        )
    if not callable(build):
        raise ConfigError(
            f"register_strategy({name!r}, ...) was given {build!r}, which cannot be called. Give a class or function "
            "that returns a tf.distribute.Strategy."
        )
    _registered[name] = build


def create_strategy(
    name: str = "auto",
    *,
    self_check: Any = None,
    repeated_rows: Any = "keep",
    compiled_update: Any = None,
    **options: Any,
) -> tf.distribute.Strategy:
    """Returns the strategy called `name`; call it first, before any tensor, layer or dataset is made.

    Args:
        name: One of `list_strategies()`. `auto` picks by the cluster that the environment describes and the devices
            of this host.
        self_check: Whether the first step of each training function is done twice, by all devices and by one, and
            compared, before it counts: `"on"`, which is the default, raises a `SelfCheckError` if they differ;
            `"warn"` logs a warning; `"off"` checks nothing. The environment variable `TFDIST_SELF_CHECK` goes before
            it. See docs/self-check.md.
        repeated_rows: What an optimizer is given of a row of an embedding that was looked up several times: `"keep"`
            all its slices, as plain Keras on TensorFlow does; `"sum"` their sum, as Keras on JAX and PyTorch does.
        compiled_update: Whether XLA compiles the optimizer's update, which is the same up to rounding: True, False, or
            `"auto"` for models of which the time is worth it. That is the default, but for `one_device`, which is plain
            Keras bit for bit unless it is told otherwise, and for `mesh` and `tpu`, which have no such update.
        **options: The options of that strategy; see its class or function. None means the default.

    Raises:
        ConfigError: An unknown name or option, or a value that is not allowed.
        ClusterError: The cluster or its description does not fit, or TensorFlow already runs.
    """
    build = _builder(name)
    rows = checked(_value_of(repeated_rows))
    compiled = checked_choice(_value_of(compiled_update))
    chosen = read_options(f"the strategy {name!r}", build, options)
    _check_given(name, build, chosen)
    mode = mode_of(str(self_check.value) if isinstance(self_check, Given) else self_check)
    strategy = build(**chosen)
    if not isinstance(strategy, tf.distribute.Strategy):
        raise ConfigError(
            f"what was registered as the strategy {name!r} returned {strategy!r}. Have it return a "
            "tf.distribute.Strategy."
        )
    if isinstance(strategy, Distribution):
        strategy.self_check = mode
    apply_patches()
    keep_freed_memory()
    set_repeated_rows(strategy, rows)
    set_compiled_update(strategy, _compiles(strategy, compiled))
    set_callback_adapter(chief_aware_callbacks)
    _warn_if_alone(name)
    return strategy


def _value_of(option: Any) -> Any:
    return option.value if isinstance(option, Given) else option


def _compiles(strategy: tf.distribute.Strategy, choice: Any) -> Any:
    """Returns the choice `compiled_update` for a strategy.

    Raises:
        ConfigError: True was said, and the strategy has no such update.
    """
    if not isinstance(strategy, Distribution):  # plain Keras
        return False if choice is None else choice
    if strategy.compiles_updates:
        return "auto" if choice is None else choice
    if choice is True:
        raise ConfigError(
            f"compiled_update=True is not possible under {strategy.name!r}, which compiles its steps in another way. "
            "Leave it out, or say 'auto'."
        )
    return False


def _warn_if_alone(name: str) -> None:
    if num_processes() > 1:
        return
    try:
        cluster = detect_cluster(os.environ)
    except ClusterError:  # a strategy of one process need not know the cluster
        return
    if cluster is not None and cluster.num_processes > 1:
        warn_once(
            f"{cluster.source} describes {cluster.num_processes} processes, and the strategy {name!r} trains in this "
            "one alone: each process trains a model of its own, on all rows. To train one model together, use "
            "'multi_worker_mirrored', 'mesh' or 'auto'."
        )


def read_options(owner: str, build: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options as keyword arguments of `build`; those that are None, which means the default, are left out.

    Args:
        owner: What takes the options, for the message.
        build: Its parameters are the options, and their annotations say how text is read.
        options: Python values, and text from a file or flag as `Given`.

    Raises:
        ConfigError: There is no such option, or a text cannot be read as its value.
    """
    parameters = _parameters(build)
    allowed = [name for name, parameter in parameters.items() if parameter.kind not in _VARIADIC]
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    chosen = {}
    for option, value in options.items():
        if option not in allowed and not takes_all:
            where = f"{value.origin}: " if isinstance(value, Given) else ""
            hint = did_you_mean(option, allowed) or _strategies_with(option)
            raise ConfigError(f"{where}{owner} has no option {option!r}; it takes {allowed or 'none'}.{hint}")
        if isinstance(value, Given):
            value = _read(option, value, parameters.get(option))
        if value is not None:
            chosen[option] = value
    return chosen


def _strategies_with(option: str) -> str:
    """Returns which strategies have an option that another one was given, in words."""
    found = [repr(name) for name in _STRATEGIES if option in _parameters(_builder(name))]
    return f" {' and '.join(found)} {'have' if len(found) > 1 else 'has'} it." if found else ""


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _read(option: str, given: Given, parameter: inspect.Parameter | None) -> Any:
    if not isinstance(given.value, str):
        return given.value
    if option == "layout_map":
        return load_rules(given.value, given.origin)
    return parse_text(given.value, option, _type_of(parameter), given.origin)


def _type_of(parameter: inspect.Parameter | None) -> Any:
    """Returns the annotation, or without one the type of the default; str if neither tells the type."""
    if parameter is None:
        return str
    if parameter.annotation is not inspect.Parameter.empty and not isinstance(parameter.annotation, str):
        return parameter.annotation
    return type(parameter.default) if isinstance(parameter.default, bool | int | float) else str


def _parameters(build: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(build, eval_str=True).parameters
    except NameError:  # an annotation names what is imported for type checkers only
        return inspect.signature(build).parameters


def _builder(name: str) -> Callable[..., Any]:
    if name in _registered:
        return _registered[name]
    if name not in _STRATEGIES:
        raise ConfigError(
            f"there is no strategy {name!r}; there are {list_strategies()}.{did_you_mean(name, list_strategies())} "
            "One of your own is known once the module that calls tfdist.register_strategy was imported."
        )
    module, attribute = _STRATEGIES[name]
    build: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return build


def _check_given(name: str, build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    for option, parameter in _parameters(build).items():
        needed = parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIADIC
        if needed and option not in options:
            example, flag = _EXAMPLES.get(option, (f"{option}=...", f"--strategy-option {option}=..."))
            raise ConfigError(
                f"the strategy {name!r} needs the option {option!r}, which was not given. Say for example "
                f"create_strategy({name!r}, {example}), or {flag} on the command line."
            )
