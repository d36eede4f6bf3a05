"""The topics of the English `chatterbot-corpus`: a small real corpus that a package carries."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import yaml

from tfdist.data.examples import TextExample
from tfdist.errors import DataError

PACKAGE = "chatterbot-corpus"


def read_chatterbot() -> Iterator[tuple[str, TextExample]]:
    """Yields each different utterance of the corpus with its topic, which is the name of its file.

    Texts that differ in case and spaces alone count as one. Texts that several topics share are left out, because they
    do not tell the topic.

    Raises:
        DataError: If the package is not installed or has another layout.
    """
    # The package is looked up and not imported: its YAML files need neither its code nor its dependencies.
    spec = importlib.util.find_spec("chatterbot_corpus")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = sorted(Path(folders[0], "data", "english").glob("*.yml")) if folders else []
    if not files:
        raise DataError(
            f"package:{PACKAGE}: {'it has no data/english/*.yml' if folders else 'it is not installed'}. "
            f"Install it: pip install --no-deps {PACKAGE}"
        )
    topics: dict[str, set[str]] = {}
    found: dict[str, tuple[str, TextExample]] = {}
    for path in files:
        for conversation in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            # One conversation of the corpus is a string instead of a list.
            for text in [conversation] if isinstance(conversation, str) else conversation:
                key = " ".join(text.casefold().split())
                topics.setdefault(key, set()).add(path.stem)
                found.setdefault(key, (str(path), TextExample(" ".join(text.split()), path.stem)))
    yield from (found[key] for key in found if len(topics[key]) == 1)
