"""JSON lines: one object in each line, with a text and a label, or with lists of tokens and tags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfdist.data.examples import Example, TaggedExample, TextExample
from tfdist.data.readers.text import read_text
from tfdist.errors import DataError


def read_json_lines(path: Path, task: str, input_key: str, target_key: str) -> Iterator[tuple[str, Example]]:
    """Yields one example for each line of `path`; blank lines are skipped.

    Raises:
        DataError: If a line is not a JSON object, lacks a key, or has a value that the task cannot use.
    """
    # splitlines() would also cut at U+2028 and at other characters that JSON allows inside strings.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: not valid JSON: {error.msg} at column {error.colno}. Write one JSON object a line."
            ) from error
        yield where, _example(where, record, task, input_key, target_key)


def _example(where: str, record: Any, task: str, input_key: str, target_key: str) -> Example:
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON {type(record).__name__} where an object is needed.")
    if task == "token-classification":
        tokens, tags = (_strings(where, record, key) for key in (input_key, target_key))
        if len(tokens) != len(tags) or not tokens:
            raise DataError(
                f"{where}: {len(tokens)} tokens and {len(tags)} tags; give one tag for each token."
            )
        return TaggedExample(tokens, tags)
    text = _value(where, record, input_key, "data.text_column")
    label = _value(where, record, target_key, "data.label_column")
    if not isinstance(text, str):
        raise DataError(f"{where}: {input_key!r} is {text!r}; it must be a string.")
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise DataError(f"{where}: {target_key!r} is {label!r}; it must be a string or a whole number.")
    return TextExample(text, str(label))


def _value(where: str, record: Mapping[str, Any], key: str, setting: str) -> Any:
    if key not in record:
        raise DataError(
            f"{where}: the key {key!r} is missing; the object has {sorted(record)}. "
            f"Choose another with --set {setting}=NAME."
        )
    return record[key]


def _strings(where: str, record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    setting = "data.text_column or data.label_column"
    values = _value(where, record, key, setting)
    if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
        raise DataError(f"{where}: {key!r} is {values!r}; it must be a list of strings, none of them empty.")
    return tuple(values)
