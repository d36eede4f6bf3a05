"""SLURM's compressed lists: host lists such as `n[9-10,12]-ib` and task counts such as `2(x3),1`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tfdist.errors import ClusterError

_RANGE = re.compile(r"(\d+)-(\d+)")
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def expand_host_list(text: str) -> tuple[str, ...]:
    """Expands a host list in the order given: `n[9-10]-ib` to `n9-ib`, `n10-ib`.

    Ranges keep leading zeros; a name may have several brackets (`r[1-2]n[1-2]`), also within one another.

    Raises:
        ClusterError: the brackets do not match, a range runs backwards, or the list is empty.
    """
    try:
        hosts = tuple(host for part in _split(text) for host in _expand(part))
    except ValueError as error:
        raise ClusterError(
            f"the host list {text!r} is malformed: {error}. Write e.g. n[9-10,12]-ib,m5."
        ) from None
    if not hosts:
        raise ClusterError("the host list is empty. Write e.g. n[9-10,12]-ib,m5.")
    return hosts


def expand_task_counts(text: str) -> tuple[int, ...]:
    """Expands task counts by node: `2(x3),1` to `(2, 2, 2, 1)`.

    Raises:
        ClusterError: the text is malformed.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = _COUNT.fullmatch(part.strip())
        if match is None:
            raise ClusterError(f"the tasks per node {text!r} are malformed at {part!r}. Write e.g. 2(x3),1.")
        counts += [int(match[1])] * int(match[2] or 1)
    return tuple(counts)


def _split(text: str) -> Iterator[str]:
    """Splits at the commas outside brackets."""
    depth, start = 0, 0
    for position, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth < 0:
            raise ValueError("a ']' has no '['")
        if character == "," and depth == 0:
            yield text[start:position].strip()
            start = position + 1
    if depth:
        raise ValueError("a '[' has no ']'")
    if text[start:].strip():
        yield text[start:].strip()


def _expand(part: str) -> Iterator[str]:
    if not part or re.search(r"\s", part):
        raise ValueError("a host name is empty or has a space")
    start = part.find("[")
    if start < 0:
        yield part
        return
    depth = 0
    for end in range(start, len(part)):
        depth += (part[end] == "[") - (part[end] == "]")
        if depth == 0:
            break
    suffixes = list(_expand(part[end + 1 :])) if part[end + 1 :] else [""]
    for item in _split(part[start + 1 : end]):
        for middle in _expand_item(item):
            for suffix in suffixes:
                yield part[:start] + middle + suffix


def _expand_item(item: str) -> Iterator[str]:
    match = _RANGE.fullmatch(item)
    if match is None:
        yield from _expand(item)
        return
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise ValueError(f"the range {item!r} runs backwards")
    for number in range(first, last + 1):
        yield str(number).zfill(len(match[1]))
