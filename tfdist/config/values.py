"""Checks the value of one setting against the type of its field, given as text or as a Python value."""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from tfdist.errors import ConfigError, did_you_mean

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NULLS = ("null", "none", "~", "")
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    type(None): "null",
    Any: "text",
}
_LISTS = (tuple, list, Sequence)


def parse_text(text: str, key: str, hint: Any, origin: str) -> Any:
    """Reads `text` as a value of the type `hint`.

    Args:
        text: what stands in a file or on the command line.
        key: dotted name of the setting, for the message.
        hint: bool, int, float, str, Any (which gives text), a Literal, `tuple[X, ...]`, `Sequence[X]`, or a union of
            these with None and with types that cannot be written as text.
        origin: file and line, or flag, for the message.

    Raises:
        ConfigError: the text is no such value.
    """
    for option in _options(hint):
        try:
            return _parse_option(text, option)
        except ValueError:
            continue
    raise misfit(repr(text), key, hint, origin)


def check_value(value: Any, key: str, hint: Any, origin: str) -> Any:
    """Returns a Python value if it fits `hint`; a whole number also fits a float field. See `parse_text`.

    Raises:
        ConfigError: the value does not fit.
    """
    for option in _options(hint):
        try:
            return _check_option(value, option)
        except ValueError:
            continue
    raise misfit(repr(value), key, hint, origin)


def check_limits(value: Any, key: str, at_least: float | None, at_most: float | None, origin: str) -> None:
    """Refuses a number below `at_least` or above `at_most`, where these are given.

    Raises:
        ConfigError: the value is outside.
    """
    if value is None:
        return
    if at_least is not None and value < at_least:
        raise ConfigError(f"{origin}: {key} must be at least {at_least:g}, got {value:g}.")
    if at_most is not None and value > at_most:
        raise ConfigError(f"{origin}: {key} must be at most {at_most:g}, got {value:g}.")


def item_type(hint: Any) -> Any:
    """Returns X of `tuple[X, ...]`, also if it is a member of a union; None for other types."""
    for option in _options(hint):
        if get_origin(option) in _LISTS:
            return get_args(option)[0]
    return None


def misfit(given: str, key: str, hint: Any, origin: str) -> ConfigError:
    """Returns the error for a value that does not fit its field."""
    allowed = [str(value) for option in _options(hint) for value in _choices(option)]
    suggestion = did_you_mean(given.strip("'"), allowed)
    return ConfigError(f"{origin}: {key} must be {_describe(hint)}, got {given}.{suggestion}")


def _options(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the type itself.

    None comes first, because its words must not be read as text, and str comes last, because it takes every text.
    """
    if get_origin(hint) not in (Union, types.UnionType):
        return (hint,)
    order = {type(None): 0, str: 2, Any: 3}
    return tuple(sorted(get_args(hint), key=lambda option: order.get(option, 1)))


def _choices(option: Any) -> tuple[Any, ...]:
    return get_args(option) if get_origin(option) is Literal else ()


def _parse_option(text: str, option: Any) -> Any:
    for choice in _choices(option):
        if str(choice) == text:
            return choice
    if get_origin(option) in _LISTS:
        items = [item.strip() for item in text.split(",") if item.strip()]
        return tuple(_parse_option(item, get_args(option)[0]) for item in items)
    if option is type(None) and text.lower() in _NULLS:
        return None
    if option is bool and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if option in (str, Any):
        return text
    if option in (int, float):
        return _check_option(option(text), option)
    raise ValueError


def _check_option(value: Any, option: Any) -> Any:
    for choice in _choices(option):
        if type(value) is type(choice) and value == choice:
            return value
    if get_origin(option) in _LISTS and isinstance(value, (list, tuple)):
        return tuple(_check_option(item, get_args(option)[0]) for item in value)
    if option is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is option:
        if option is float:
            raise ValueError
        return value
    raise ValueError


def _describe(hint: Any) -> str:
    # None is the first in `_options` and comes last in a sentence.
    return " or ".join(_describe_option(option) for option in reversed(_options(hint)))


def _describe_option(option: Any) -> str:
    if _choices(option):
        return "one of " + ", ".join(map(str, _choices(option)))
    if get_origin(option) in _LISTS:
        return f"a list, each item {_describe_option(get_args(option)[0])}"
    return _WORDS[option] if option in _WORDS else str(getattr(option, "__name__", option))
