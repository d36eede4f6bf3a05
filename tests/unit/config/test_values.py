from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from tfdist.config.values import check_value, parse_text
from tfdist.errors import ConfigError

PARSED = [
    ("a,b", tuple[str, ...], ("a", "b")),
    ("1, 2", tuple[int, ...] | None, (1, 2)),
    ("null", tuple[int, ...] | None, None),
    ("none", str | None, None),
    ("2", Literal[1, 2], 2),
    ("7", int | float, 7),
    ("7", str | int, 7),
    ("2", int | Sequence[str] | None, 2),
    ("GPU:0,GPU:1", int | Sequence[str] | None, ("GPU:0", "GPU:1")),
    ("batch=2", Mapping[str, int] | str | Any, "batch=2"),
    ("off", Any, "off"),
]


@pytest.mark.parametrize(("text", "hint", "value"), PARSED)
def test_parse(text, hint, value):
    assert parse_text(text, "key", hint, "here") == value


@pytest.mark.parametrize(
    ("value", "hint", "checked"),
    [([1, 2], tuple[int, ...], (1, 2)), (None, float | None, None), (2, Literal[1, 2], 2)],
)
def test_check(value, hint, checked):
    assert check_value(value, "key", hint, "here") == checked


@pytest.mark.parametrize(
    ("text", "hint", "allowed"),
    [
        ("1,x", tuple[int, ...], "a list, each item a whole number"),
        ("3", Literal[1, 2] | None, "one of 1, 2 or null"),
        ("", float, "a finite number"),
        ("x", Mapping[str, int] | int, "a whole number or Mapping"),
    ],
)
def test_misfit_says_what_is_allowed(text, hint, allowed):
    with pytest.raises(ConfigError, match=f"here: key must be {allowed}, got {text!r}"):
        parse_text(text, "key", hint, "here")


def test_true_is_no_literal_one():
    with pytest.raises(ConfigError):
        check_value(True, "key", Literal[1, 2], "here")
