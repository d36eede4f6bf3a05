"""Reads docs/parity.md, which the tests hold against fresh cells and the register."""

from __future__ import annotations

import functools
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


@functools.cache
def page_rows() -> dict[str, dict[str, str]]:
    """Returns the cells of the page by case and column."""
    rows: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| Case |"):
            columns = cells[1:]
        elif found := re.match(r"\| `(.+?)`", line):
            row = rows.setdefault(found[1], {})
            assert not set(row) & set(columns), f"{found[1]} has two rows"
            row.update(zip(columns, cells[1:], strict=True))
    return rows
