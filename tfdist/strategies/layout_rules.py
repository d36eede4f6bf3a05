"""Which mesh axis splits which dimension of which variable: rules by path, as in `keras.distribution.LayoutMap`."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfdist._internals.mesh_batches import BATCH_AXIS
from tfdist.errors import ConfigError
from tfdist.models import bigru, mlp

Axes = tuple[str | None, ...]

AXES = (BATCH_AXIS, "model")

# Paths of transformers' variables, by Megatron-LM's split (Shoeybi et al., 2019, section 3): the projections of
# attention by heads and the first feed-forward layer by columns, what follows each by rows, embeddings by vocabulary.
# The rank tells kernels that are split by heads from plain ones.
_TRANSFORMER = (
    (r"(query|key|value)/kernel$", {3: (None, "model", None), 2: (None, "model")}),
    (r"(query|key|value)/bias$", {2: ("model", None), 1: ("model",)}),
    (r"(attention_output|attention/output|output_dense)/kernel$", {3: ("model", None, None)}),
    (r"(intermediate|intermediate_dense|up_dense|gate_dense|gating_dense\w*)/kernel$", {2: (None, "model")}),
    (r"(intermediate|intermediate_dense)/bias$", {1: ("model",)}),
    (r"(encoder_\d+/output|output_dense|feedforward_output|down_dense)/kernel$", {2: ("model", None)}),
    (r"(token_embeddings?|token_embedding/embeddings)$", {2: ("model", None)}),
)

# The other models of tfdist, by the rules that they bring.
_AUTOMATIC: tuple[tuple[str, Mapping[int, Axes]], ...] = (
    *_TRANSFORMER,
    *((f"^mlp/{pattern}", {len(axes): axes}) for pattern, axes in mlp.SHARDING_RULES),
    *((f"^{pattern}", {len(axes): axes}) for pattern, axes in bigru.SHARDING_RULES),
)


def mesh_sizes(mesh: Any) -> dict[str, int]:
    """Returns the sizes by axis of a mesh that is given as a mapping, as text or as a `keras.distribution.DeviceMesh`.

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
        rules: Expressions and axes; `"auto"` for the split of transformers by name and rank, and of tfdist's models.
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
        self._seen: dict[str, list[str]] = {pattern: [] for pattern in self._rules}
        self.replicated: dict[str, str] = {}

    def axes_of(self, path: str, shape: Sequence[int]) -> Axes:
        """Returns the axis of each dimension of the variable at `path`.

        Raises:
            ConfigError: Two rules match, a rule has another rank, or an axis does not divide its dimension.
        """
        whole: Axes = (None,) * len(shape)
        if self.automatic:
            return self._automatic(path, shape) or whole
        matching = [pattern for pattern in self._rules if re.search(pattern, path)]
        if not matching:
            self.replicated[path] = "no rule"
            return whole
        if len(matching) > 1:
            raise ConfigError(
                f"layout_map: {path} is matched by two rules, {matching[0]!r} and {matching[1]!r}. Make one of them "
                "narrower, for example with ^ or $."
            )
        axes = self._rules[matching[0]]
        self._seen[matching[0]].append(path)
        if len(axes) != len(shape):
            raise ConfigError(
                f"layout_map: the rule {matching[0]!r} has {len(axes)} axes {axes}, and {path} has the shape "
                f"{tuple(shape)}. Give one axis, or None, for each dimension."
            )
        for dimension, axis in enumerate(axes):
            if axis is not None and shape[dimension] % self._mesh[axis]:
                raise ConfigError(
                    f"layout_map: the rule {matching[0]!r} splits dimension {dimension} of {path}, shape "
                    f"{tuple(shape)}, over the axis {axis!r} of {self._mesh[axis]} devices, which does not divide "
                    f"{shape[dimension]}. Leave this dimension whole (None), or change its size or the mesh."
                )
        return axes

    def _automatic(self, path: str, shape: Sequence[int]) -> Axes | None:
        if "model" not in self._mesh:
            return None
        for pattern, by_rank in _AUTOMATIC:
            axes = by_rank.get(len(shape)) if re.search(pattern, path) else None
            if axes is None:
                continue
            (dimension,) = [index for index, axis in enumerate(axes) if axis]
            if shape[dimension] % self._mesh["model"] == 0:
                return axes
            self.replicated[path] = f"{shape[dimension]} is not a multiple of {self._mesh['model']}"
            return None
        self.replicated[path] = "no automatic rule"
        return None

    def check_all_used(self, paths: Sequence[str]) -> None:
        """Raises for rules that matched no variable.

        Args:
            paths: The variables that there are, for the message.

        Raises:
            ConfigError: A rule matches nothing.
        """
        unused = [pattern for pattern, seen in self._seen.items() if not seen]
        if unused:
            raise ConfigError(
                f"layout_map: the rule {unused[0]!r} matches no variable, so that nothing would be split by it. "
                f"Variables are called for example {', '.join(list(paths)[:4])}; see variable.path."
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


@dataclass(frozen=True)
class Placement:
    """Where a variable and what an optimizer keeps for it are stored.

    Attributes:
        rules: The rules, which say how a step computes.
        mesh: Axis name -> size.
        shard_optimizer: Whether the optimizer's state is split over the batch axis too.
        shard_weights: Whether weights are.
    """

    rules: LayoutRules
    mesh: dict[str, int]
    shard_optimizer: bool = False
    shard_weights: bool = False

    @classmethod
    def create(cls, mesh: Any, layout_map: Any, shard_optimizer: bool, shard_weights: bool) -> Placement:
        """Returns the placement for what a user gives, of which a `keras.distribution` object brings its rules."""
        sizes = mesh_sizes(getattr(mesh, "device_mesh", mesh))
        given = getattr(mesh, "_layout_map", layout_map)
        made_for = getattr(given, "device_mesh", None)
        if made_for is not None and mesh_sizes(made_for) != sizes:
            raise ConfigError(
                f"the LayoutMap was made for the mesh {mesh_sizes(made_for)}, and the strategy's is {sizes}. Make the "
                "LayoutMap for this mesh, or give its rules as a dict."
            )
        rules = LayoutRules(given, sizes)
        return cls(rules, sizes, shard_optimizer, shard_weights)

    def __post_init__(self) -> None:
        for option in ("shard_optimizer", "shard_weights"):
            if getattr(self, option) and self.mesh.get(BATCH_AXIS, 1) == 1:
                raise ConfigError(
                    f"{option}=True splits over the batch axis, and the mesh {dict(self.mesh)} has none to split over. "
                    "Give it one, as mesh={'batch': 2, 'model': 2}, or leave the option out."
                )

    def of_variable(self, path: str, shape: Sequence[int]) -> tuple[Axes, Axes]:
        """Returns the axes in which the variable is stored, and those in which a step computes with it."""
        axes = self.rules.axes_of(path, shape)
        return with_axis(axes, shape, BATCH_AXIS, self.mesh) if self.shard_weights else axes, axes

    def of_slot(self, stored: Axes, shape: Sequence[int]) -> Axes:
        """Returns the axes of what the optimizer keeps for a variable that is `stored` so."""
        if not (self.shard_optimizer or self.shard_weights):
            return stored
        return with_axis(stored, shape, BATCH_AXIS, self.mesh)


def with_axis(axes: Axes, shape: Sequence[int], axis: str, mesh: Mapping[str, int]) -> Axes:
    """Returns `axes` with `axis` on the largest dimension that is whole and that it divides; unchanged if none is."""
    free = [
        index
        for index, (size, used) in enumerate(zip(shape, axes, strict=True))
        if used is None and size and size % mesh[axis] == 0
    ]
    if axis in axes or not free:
        return axes
    chosen = max(free, key=lambda index: shape[index])
    return tuple(axis if index == chosen else used for index, used in enumerate(axes))


def local_shape(axes: Axes, shape: Sequence[int], mesh: Mapping[str, int]) -> tuple[int, ...]:
    """Returns the shape of one device's piece."""
    return tuple(size // (mesh[axis] if axis else 1) for size, axis in zip(shape, axes, strict=True))
