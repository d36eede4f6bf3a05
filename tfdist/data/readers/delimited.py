"""TSV and CSV: a header, then one text and its label in each row, quoted as Python's `csv` quotes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from tfdist.data.examples import TextExample
from tfdist.data.readers.text import read_text
from tfdist.errors import DataError, did_you_mean


def read_delimited(
    path: Path, delimiter: str, text_column: str, label_column: str
) -> Iterator[tuple[str, TextExample]]:
    """Yields the rows of `path`. Blank lines are skipped; other columns are not looked at.

    Raises:
        DataError: If the header lacks a column, a row has another number of fields, a quote is left open, or
            a label is empty.
    """
    # `strict` refuses a quote that never ends. Otherwise the rest of the file would become one text.
    rows = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    try:
        for row in rows:
            where, start = f"{path}:{start}", rows.line_num + 1
            if not row:
                continue
            if not header:
                header = row
                text_at = _column(where, header, text_column, "data.text_column")
                label_at = _column(where, header, label_column, "data.label_column")
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{where}: {len(row)} fields where the header has {len(header)}: {row[:4]}. "
                    'Put a text that holds the delimiter in "quotes".'
                )
            if not row[label_at].strip():
                raise DataError(f"{where}: the column {label_column!r} is empty. Label the row or remove it.")
            yield where, TextExample(row[text_at], row[label_at])
    except csv.Error as error:
        raise DataError(
            f'{path}:{start}: {error}. A field that starts with " must end with one, and a " inside it is '
            'written "".'
        ) from error


def _column(where: str, header: list[str], name: str, setting: str) -> int:
    if header.count(name) != 1:
        problem = "is missing" if name not in header else "is there more than once"
        raise DataError(
            f"{where}: the column {name!r} {problem}; the header has {header}.{did_you_mean(name, header)} "
            f"The first line must name the columns; choose another with --set {setting}=NAME."
        )
    return header.index(name)
