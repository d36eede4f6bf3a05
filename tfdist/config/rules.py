"""Reads layout rules from a YAML file: regular expressions on paths, and for each dimension a mesh axis or null."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tfdist.config.loader import compose, construct
from tfdist.errors import ConfigError


def load_rules(layout_map: str, origin: str = "layout_map") -> Literal["auto"] | dict[str, list[str | None]]:
    """Returns the rules of the file that `layout_map` names, or `"auto"` if it is that word.

    Args:
        layout_map: `"auto"`, or the path of a YAML file.
        origin: File and line, or flag, where it was given, for the message.

    Raises:
        ConfigError: The file is missing or malformed.
    """
    if layout_map == "auto":
        return "auto"
    path = Path(layout_map)
    root = compose(path, f"Correct {origin}: it takes auto, or a YAML file of rules.")
    rules: Any = None if root is None else construct(root, path)
    if not isinstance(rules, dict) or not all(isinstance(axes, list) for axes in rules.values()):
        raise ConfigError(
            f"{layout_map}: there must be one rule a line, as 'hidden/kernel$: [null, model]'; given: {rules!r}."
        )
    return rules
