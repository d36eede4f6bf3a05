"""Layout rules: by its path, which mesh axis splits which dimension of a variable, as in a Keras `LayoutMap`."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfdist.errors import ConfigError
from tfdist.sharding.automatic import MODEL_AXIS, Axes, automatic_layout

BATCH_AXIS = "batch"

AXES = (BATCH_AXIS, MODEL_AXIS)


def mesh_sizes(mesh: Any) -> dict[str, int]:
    """Returns axis name -> size of a mesh that is a mapping, a text or a `keras.distribution.DeviceMesh`.

    Raises:
        ConfigError: An axis with another name, or no size.
    """
    names, shape = getattr(mesh, "axis_names", None), getattr(mesh, "shape", None)
    if names is not None and shape is not None:
        mesh = dict(zip(names, shape, strict=True))
    if isinstance(mesh, str) and re.fullmatch(r"\w+=\d+(,\w+=\d+)*", mesh):
        mesh = {axis: int(size) for axis, size in (part.split("=") for part in mesh.split(","))}
    if not isinstance(mesh, Mapping) or not mesh:
        raise ConfigError(
            f"mesh={mesh!r} is not possible; give sizes by axis, as {{'batch': 2, 'model': 2}} or 'batch=2,model=2'."
        )
    for axis, size in mesh.items():
        if axis not in AXES:
            raise ConfigError(f"mesh: there is no axis {axis!r}; the axes are {list(AXES)}.")
        if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1:
            raise ConfigError(f"mesh: the axis {axis!r} has the size {size!r}; give a count of at least 1.")
    return {axis: int(size) for axis, size in mesh.items()}


class LayoutRules:
    """Rules from regular expressions on `variable.path` to one mesh axis, or None, for each dimension.

    Args:
        rules: Expressions and axes; `"auto"` for the rules of `tfdist.sharding.automatic`.
        mesh: Axis name -> size.

    Raises:
        ConfigError: A rule is malformed or names an axis that the mesh lacks.
    """

    def __init__(self, rules: Any, mesh: Mapping[str, int]) -> None:
        self._mesh = dict(mesh)
        self.automatic = rules == "auto"
        if isinstance(rules, str) and not self.automatic:
            raise ConfigError(
                f"layout_map={rules!r} is not possible; give rules, a keras.distribution.LayoutMap, or 'auto'."
            )
        self._rules = {} if self.automatic else _axes_of_rules(rules, self._mesh)

    def axes_of(self, path: str, shape: Sequence[int]) -> Axes:
        """Returns the axis of each dimension of the variable at `path`.

        Raises:
            ConfigError: Two rules match, the rule is for another rank, or an axis does not divide its dimension.
        """
        if self.automatic:
            return automatic_layout(path, shape, self._mesh).axes
        matching = self._matching(path)
        if not matching:
            return (None,) * len(shape)
        if len(matching) > 1:
            raise ConfigError(
                f"layout_map: {path} is matched by two rules, {matching[0]!r} and {matching[1]!r}. Make one of them "
                "narrower, for example with ^ or $."
            )
        self._check_fit(matching[0], path, shape)
        return self._rules[matching[0]]

    def reason_whole(self, path: str, shape: Sequence[int]) -> str:
        """Returns why the rules leave the variable at `path` whole; an empty string if they split it."""
        if self.automatic:
            return automatic_layout(path, shape, self._mesh).reason
        return "" if self._matching(path) else "no rule"

    def check_all_used(self, paths: Sequence[str]) -> None:
        """Raises for rules that match none of a model's variables.

        Args:
            paths: The paths of all variables of the model.

        Raises:
            ConfigError: A rule matches nothing.
        """
        for pattern in self._rules:
            if not any(re.search(pattern, path) for path in paths):
                raise ConfigError(
                    f"layout_map: the rule {pattern!r} matches no variable, so that nothing would be split by it. "
                    f"Variables are called for example {', '.join(list(paths)[:4])}; see variable.path."
                )

    def _matching(self, path: str) -> list[str]:
        return [pattern for pattern in self._rules if re.search(pattern, path)]

    def _check_fit(self, pattern: str, path: str, shape: Sequence[int]) -> None:
        axes = self._rules[pattern]
        if len(axes) != len(shape):
            raise ConfigError(
                f"layout_map: the rule {pattern!r} has {len(axes)} axes {axes}, and {path} has the shape "
                f"{tuple(shape)}. Give one axis, or None, for each dimension."
            )
        for dimension, axis in enumerate(axes):
            if axis is not None and shape[dimension] % self._mesh[axis]:
                raise ConfigError(
                    f"layout_map: the rule {pattern!r} splits dimension {dimension} of {path}, shape "
                    f"{tuple(shape)}, over the axis {axis!r} of {self._mesh[axis]} devices, which does not divide "
                    f"{shape[dimension]}. Leave this dimension whole (None), or change its size or the mesh."
                )


def _axes_of_rules(rules: Any, mesh: Mapping[str, int]) -> dict[str, Axes]:
    try:
        items = [(pattern, rules[pattern]) for pattern in rules]
    except (TypeError, KeyError):
        try:
            items = [(pattern, axes) for pattern, axes in rules]
        except (TypeError, ValueError):
            items = []
        if not items and rules:
            raise ConfigError(
                f"layout_map must map regular expressions on variable.path to axes, as {{'hidden/kernel$': "
                f"(None, 'model')}}; given was {rules!r}."
            ) from None
    found: dict[str, Axes] = {}
    for pattern, value in items:
        axes = tuple(getattr(value, "axes", value))
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ConfigError(f"layout_map: {pattern!r} is no regular expression ({error}).") from None
        unknown = [axis for axis in axes if axis is not None and axis not in mesh]
        if unknown:
            raise ConfigError(
                f"layout_map: the rule {pattern!r} names the axis {unknown[0]!r}; the mesh has {dict(mesh)}."
            )
        named = [axis for axis in axes if axis is not None]
        if len(set(named)) != len(named):
            raise ConfigError(f"layout_map: the rule {pattern!r} uses one axis for two dimensions: {axes}.")
        found[pattern] = axes
    return found
