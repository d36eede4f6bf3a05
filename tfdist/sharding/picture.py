"""Draws a sharding report: one square for each variable and device, filled where the device holds its piece."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape

from tfdist.sharding.automatic import Axes

_SQUARE, _GAP, _LABEL, _HEAD = 22, 8, 470, 44


def to_svg(rows: Sequence[tuple[str, Sequence[int], Axes]], mesh: Mapping[str, int]) -> str:
    """Returns the picture as SVG text.

    Args:
        rows: Name, shape and axes of each variable.
        mesh: Axis name -> size; the devices are its places, the last axis counted fastest.
    """
    places = [
        dict(zip(mesh, index, strict=True))
        for index in itertools.product(*(range(size) for size in mesh.values()))
    ]
    width = _LABEL + len(places) * (_SQUARE + _GAP)
    height = _HEAD + len(rows) * (_SQUARE + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for column, place in enumerate(places):
        x = _LABEL + column * (_SQUARE + _GAP)
        for line, (axis, index) in enumerate(place.items()):
            parts.append(
                f'<text x="{x + _SQUARE / 2}" y="{14 + 14 * line}" text-anchor="middle">{axis[0]}{index}</text>'
            )
    for line, (name, shape, axes) in enumerate(rows):
        y = _HEAD + line * (_SQUARE + _GAP)
        label = f"{name} {'×'.join(str(size) for size in shape)}"
        parts.append(f'<text x="{_LABEL - 10}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        for column, place in enumerate(places):
            x = _LABEL + column * (_SQUARE + _GAP)
            top, tall, left, wide = (round(_SQUARE * part, 2) for part in _piece(axes, place, mesh))
            parts.append(
                f'<rect x="{x + left}" y="{y + top}" width="{wide}" height="{tall}" fill="#2a6f97"/>'
                f'<rect x="{x}" y="{y}" width="{_SQUARE}" height="{_SQUARE}" fill="none" stroke="#888"/>'
            )
    return "\n".join([*parts, "</svg>"])


def _piece(
    axes: Axes, place: Mapping[str, int], mesh: Mapping[str, int]
) -> tuple[float, float, float, float]:
    """Returns top, height, left and width of a device's piece; the first dimension goes down, the others across."""
    down = axes[0] if len(axes) > 1 else None
    across = next((axis for axis in (axes[1:] if len(axes) > 1 else axes) if axis), None)
    (top, tall), (left, wide) = (
        (place[axis] / mesh[axis], 1 / mesh[axis]) if axis else (0.0, 1.0) for axis in (down, across)
    )
    return top, tall, left, wide
