"""What a run derives from its training texts."""

from __future__ import annotations

import pytest

from tfdist.config.schema import ModelConfig
from tfdist.data.examples import TextExample
from tfdist.training.model import create_tokenizer


@pytest.mark.parametrize("model", ["bert", "bigru"])
def test_the_same_texts_give_the_same_vocabulary(model: str) -> None:
    """Every worker learns it by itself; the trainer of word pieces numbers them as its hash maps do, anew each time."""
    words = [
        "A",
        "good",
        "film,",
        "a",
        "great",
        "Superb:",
        "le",
        "thé,",
        "漢字",
        "of",
        "lovely",
        "dull",
        "plots",
        "scenes",
    ]
    texts = [" ".join(words[i % 7 :] + words[: i % 3]) for i in range(50)]
    examples = [TextExample(text, "label") for text in texts]
    first, *others = (create_tokenizer(ModelConfig(name=model), examples) for _ in range(4))
    for other in others:
        assert [list(ids) for ids in other.encode_texts(texts)] == [
            list(ids) for ids in first.encode_texts(texts)
        ]
