"""CoNLL: one token and its tag in each line, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tfdist.data.examples import TaggedExample
from tfdist.data.readers.text import read_text
from tfdist.errors import DataError


def read_conll(path: Path) -> Iterator[tuple[str, TaggedExample]]:
    """Yields the sentences of `path`.

    The first column is the token, and the last one its tag. Columns are separated by one tab, or by spaces if the line
    has no tab. The first token line tells how many columns there are (two, or for example four in CoNLL-2003). Lines of
    white space alone count as blank (WNUT-17 ends its training sentences with a lone tab). `-DOCSTART-` lines are
    skipped.

    Raises:
        DataError: If a line has another number of columns, or an empty one.
    """
    columns = first = 0
    sentence: list[list[str]] = []
    start = 1
    # One more blank line ends the last sentence.
    for number, line in enumerate([*read_text(path).split("\n"), ""], start=1):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            if sentence:
                words, tags = [row[0] for row in sentence], [row[-1] for row in sentence]
                yield f"{path}:{start}", TaggedExample(tuple(words), tuple(tags))
            sentence, start = [], number + 1
            continue
        fields = line.split("\t") if "\t" in line else re.split(" +", line)
        columns, first = columns or len(fields), first or number
        if len(fields) != columns or columns < 2 or not all(fields):
            shape = "at least two" if columns < 2 else f"{columns} (as in line {first})"
            raise DataError(
                f"{path}:{number}: {len(fields)} fields {fields} where {shape} are needed, none empty. "
                "Write TOKEN<tab>TAG in each line, and a blank line after each sentence."
            )
        sentence.append(fields)
