"""Reports where each variable of a mesh is stored, in how many bytes, and why some variables are whole everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tfdist.errors import UnsupportedError
from tfdist.sharding.automatic import Axes
from tfdist.sharding.picture import to_svg

AS_ITS_VARIABLE = "as the variable it belongs to"


@dataclass(frozen=True)
class VariablePlacement:
    """Where one variable is.

    Attributes:
        path: The variable's path.
        shape: The shape of the whole variable.
        axes: The mesh axis of each dimension, or None.
        num_bytes: Bytes of the whole variable.
        device_bytes: Bytes on each local device, measured on the pieces.
        reason: Why it is whole on every device; empty if it is split.
    """

    path: str
    shape: tuple[int, ...]
    axes: Axes
    num_bytes: int
    device_bytes: tuple[int, ...]
    reason: str


@dataclass(frozen=True, repr=False)
class ShardingReport:
    """The placement of a model's variables, and of its optimizer's if that is built; print it, or draw it.

    Attributes:
        variables: The model's, then the optimizer's.
        mesh: Axis name -> size.
    """

    variables: tuple[VariablePlacement, ...]
    mesh: Mapping[str, int]

    @property
    def num_bytes(self) -> int:
        """Bytes of all variables, each counted once."""
        return sum(variable.num_bytes for variable in self.variables)

    @property
    def device_bytes(self) -> tuple[int, ...]:
        """Bytes on each local device."""
        return tuple(sum(column) for column in zip(*(v.device_bytes for v in self.variables), strict=True))

    def _groups(self) -> list[tuple[str, list[VariablePlacement]]]:
        """Returns the variables in groups by name; layers whose names differ by a number only are one group."""
        groups: dict[tuple[Any, ...], list[VariablePlacement]] = {}
        for variable in self.variables:
            key = (re.sub(r"\d+", "*", variable.path), variable.shape, variable.axes, variable.reason)
            groups.setdefault(key, []).append(variable)
        return [(key[0] if len(group) > 1 else group[0].path, group) for key, group in groups.items()]

    def to_svg(self) -> str:
        """Returns a picture of what each device holds, without scalars, as SVG text."""
        rows = [(name, group[0].shape, group[0].axes) for name, group in self._groups() if group[0].shape]
        return to_svg(rows, self.mesh)

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Table | str]:
        table = Table()
        table.add_column("variable", overflow="fold")
        for header in ("number", "shape", "split over", "bytes a device", "why whole"):
            table.add_column(header, justify="right" if header in ("number", "bytes a device") else "left")
        for name, group in self._groups():
            first, share = group[0], sum(max(variable.device_bytes) for variable in group)
            split = ", ".join(axis or "-" for axis in first.axes) if any(first.axes) else ""
            table.add_row(name, str(len(group)), str(first.shape), split, f"{share:,}", first.reason)
        yield table
        shares = ", ".join(f"{size:,}" for size in dict.fromkeys(self.device_bytes))
        count = len(self.device_bytes)
        part = max(self.device_bytes) / max(1, self.num_bytes)
        yield (
            f"{self.num_bytes:,} bytes; on each of {count} devices {shares}, that is {part:.1%} "
            f"(1/{count} is {1 / count:.1%})"
        )

    def __repr__(self) -> str:
        share = max(self.device_bytes, default=0)
        return f"<{len(self.variables)} variables on {self.mesh}: {self.num_bytes:,} bytes, {share:,} on a device>"

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
    strategy: Any = getattr(model, "distribute_strategy", None)
    rules = getattr(strategy, "rules", None)
    if rules is None:
        raise UnsupportedError(
            f"sharding_report needs a model that was built under the mesh strategy; {model.name!r} was not. Build it "
            "under create_strategy('mesh', ...).scope()."
        )
    optimizer = getattr(model, "optimizer", None)
    placed = [_placement(v, rules.reason_whole(v.path, tuple(v.shape))) for v in model.variables]
    slots = optimizer.variables if optimizer is not None else []
    placed += [_placement(variable, AS_ITS_VARIABLE) for variable in slots]
    return ShardingReport(tuple(placed), strategy.axes)


def _placement(variable: Any, why: str) -> VariablePlacement:
    placed, shape = variable.value, tuple(variable.shape)
    reason = "" if any(placed.axes) or not shape else why
    num_bytes = placed.dtype.size * math.prod(shape)
    return VariablePlacement(
        variable.path, shape, placed.axes, num_bytes, tuple(placed.device_bytes()), reason
    )
