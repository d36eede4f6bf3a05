"""Which variable lives where on a mesh, in how many bytes, and why some are whole everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tfdist.errors import UnsupportedError


@dataclass(frozen=True)
class VariablePlacement:
    """Where one variable is.

    Attributes:
        path: Its path.
        shape: Its whole shape.
        axes: The mesh axis of each dimension, or None.
        num_bytes: Bytes of the whole.
        device_bytes: Bytes on each local device, measured on the pieces.
        reason: Why it is whole on every device; empty where it is split.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    num_bytes: int
    device_bytes: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class ShardingReport:
    """The placement of a model's variables, and of its optimizer's where that is built."""

    variables: tuple[VariablePlacement, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all variables, each counted once."""
        return sum(variable.num_bytes for variable in self.variables)

    @property
    def device_bytes(self) -> tuple[int, ...]:
        """Bytes on each local device."""
        return tuple(sum(column) for column in zip(*(v.device_bytes for v in self.variables), strict=True))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Table | str]:
        table = Table("variable", "shape", "split over", "bytes a device", "why whole")
        for variable in self.variables:
            split = ", ".join(axis or "-" for axis in variable.axes)
            share = f"{max(variable.device_bytes):,}"
            table.add_row(variable.path, str(variable.shape), split, share, variable.reason)
        yield table
        yield f"{self.num_bytes:,} bytes in all; on each device: {', '.join(f'{x:,}' for x in self.device_bytes)}"

    def __str__(self) -> str:
        return "\n".join(
            f"{v.path} {v.shape} {v.axes} {max(v.device_bytes)} bytes a device {v.reason}".rstrip()
            for v in self.variables
        )


def sharding_report(model: Any) -> ShardingReport:
    """Returns where each variable of a model built under the mesh strategy is; print it, or read its fields.

    Raises:
        UnsupportedError: The model was not built under the mesh strategy.
    """
    strategy = getattr(model, "distribute_strategy", None)
    rules = getattr(strategy, "rules", None)
    if rules is None:
        raise UnsupportedError(
            f"sharding_report needs a model that was built under the mesh strategy; {model.name!r} was not. Build it "
            "under create_strategy('mesh', ...).scope()."
        )
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer is not None else [])]
    return ShardingReport(tuple(_placement(variable, rules) for variable in variables))


def _placement(variable: Any, rules: Any) -> VariablePlacement:
    layout = variable.value.layout
    axes = tuple(None if axis == "unsharded" else axis for axis in layout.sharding_specs)
    shape = tuple(variable.shape)
    reason = (
        ""
        if any(axes)
        else rules.replicated.get(variable.path, "as the variable it belongs to" if shape else "")
    )
    size = variable.value.dtype.size
    for dimension in shape:
        size *= dimension
    return VariablePlacement(variable.path, shape, axes, size, tuple(variable.value.device_bytes()), reason)
