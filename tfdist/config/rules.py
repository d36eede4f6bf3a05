"""Reads rules of layout from a YAML file: a regular expression to the axis, or null, of each dimension."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from yaml.constructor import SafeConstructor

from tfdist.config.loader import compose
from tfdist.errors import ConfigError


def load_rules(layout: str) -> Literal["auto"] | dict[str, list[str | None]]:
    """Returns what the file named `layout` says, or `"auto"` for that word.

    Raises:
        ConfigError: The file is missing or malformed.
    """
    if layout == "auto":
        return "auto"
    root = compose(Path(layout), "Give auto, or a YAML file of rules.")
    rules: Any = None if root is None else SafeConstructor().construct_document(root)
    if not isinstance(rules, dict) or not all(isinstance(axes, list) for axes in rules.values()):
        raise ConfigError(
            f"{layout}: there must be one rule a line, as 'hidden/kernel$: [null, model]'; given: {rules!r}."
        )
    return rules
