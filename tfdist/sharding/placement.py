"""Where a variable and its optimizer slots are stored, and in which layout a step computes with the variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfdist.errors import ConfigError
from tfdist.sharding.automatic import Axes
from tfdist.sharding.rules import BATCH_AXIS, LayoutRules, mesh_sizes


@dataclass(frozen=True)
class Placement:
    """Where a variable and its optimizer slots are stored.

    Attributes:
        rules: The layout rules, in which a step computes.
        mesh: Axis name -> size.
        shard_optimizer: Whether the optimizer's state is split over the batch axis too.
        shard_weights: Whether weights are split over the batch axis too.
    """

    rules: LayoutRules
    mesh: dict[str, int]
    shard_optimizer: bool = False
    shard_weights: bool = False

    @classmethod
    def create(cls, mesh: Any, layout_map: Any, shard_optimizer: bool, shard_weights: bool) -> Placement:
        """Returns the placement for the options of a user; a `keras.distribution` object may bring its own rules."""
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
        """Returns the axes of an optimizer slot of a variable whose axes are `stored`."""
        if not (self.shard_optimizer or self.shard_weights):
            return stored
        return with_axis(stored, shape, BATCH_AXIS, self.mesh)


def with_axis(axes: Axes, shape: Sequence[int], axis: str, mesh: Mapping[str, int]) -> Axes:
    """Returns `axes` with `axis` on the largest whole dimension that it divides; unchanged if it divides none."""
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
