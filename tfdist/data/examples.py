"""The examples that a source yields: a labelled text, or a sentence of tagged tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextExample:
    """One text for text classification; `label` is None if it is not known."""

    text: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class TaggedExample:
    """One sentence for token classification; `tags` has one tag for each token, or is None if they are not known."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...] | None = None


Example = TextExample | TaggedExample
