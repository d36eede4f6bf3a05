"""One tag for each word of a sentence, such as named entities in BIO notation."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from tfdist.data import labels
from tfdist.data.examples import TaggedExample
from tfdist.errors import ConfigError
from tfdist.models.bert import bert_token_classifier
from tfdist.tasks.base import Encoded, Tokenizer, softmax
from tfdist.tasks.report import Report, class_report

OUTSIDE = "O"
IGNORED = -1


class TokenClassification:
    """Tags words. A word's first piece carries its tag; its other pieces have weight 0.

    Words that are cut off at the largest length are predicted as `O`, and count as `O` in the report.
    """

    name: ClassVar[str] = "token-classification"
    logits_rank: ClassVar[int] = 3

    def __init__(self) -> None:
        if importlib.util.find_spec("seqeval") is None:
            raise ConfigError(
                "Token classification is scored with seqeval, which is not installed. "
                "Install it with: pip install 'tfdist[text]'."
            )

    def parse_line(self, line: str) -> TaggedExample:
        return TaggedExample(tuple(line.split()))

    def encode(
        self,
        examples: Sequence[TaggedExample],
        names: Sequence[str] | None,
        tokenizer: Tokenizer,
        max_length: int,
    ) -> Encoded:
        encoded = tokenizer.encode_words([example.tokens for example in examples], max_length)
        # A model needs at least one position, as for texts.
        ids = [words.ids if len(words.ids) else np.array([tokenizer.unk_id], np.int32) for words in encoded]
        positions = [
            _first_pieces(words.word_index, len(example.tokens))
            for words, example in zip(encoded, examples, strict=True)
        ]
        if names is None:
            return Encoded(ids, None, positions)
        aligned = [np.full(len(row), IGNORED, np.int32) for row in ids]
        for row, places, numbers in zip(aligned, positions, labels.encode(examples, names), strict=True):
            row[places[places >= 0]] = numbers[places >= 0]
        return Encoded(ids, aligned, positions)

    def add_head(self, backbone: keras.Model, num_labels: int, dropout: float) -> keras.Model:
        return bert_token_classifier(backbone, num_labels, dropout)

    def report(
        self, examples: Sequence[TaggedExample], logits: np.ndarray, encoded: Encoded, names: Sequence[str]
    ) -> Report:
        true = [list(example.tags or ()) for example in examples]
        predicted = [tags for tags, _ in _tagged(logits, encoded, names)]
        if not any(name.startswith(("B-", "I-")) for name in names):
            # If the tags are not entities but, for example, parts of speech, words are scored one by one.
            numbers = {name: number for number, name in enumerate(names)}
            flat = [np.array([numbers[tag] for row in rows for tag in row]) for rows in (true, predicted)]
            return class_report(flat[0], flat[1], names)
        from seqeval.metrics import classification_report  # noqa: PLC0415 (loads scikit-learn: a second)

        scores = classification_report(true, predicted, output_dict=True, zero_division=0)
        return {
            name: {column: float(value) for column, value in row.items()} | {"support": int(row["support"])}
            for name, row in scores.items()
        }

    def describe(
        self, examples: Sequence[TaggedExample], logits: np.ndarray, encoded: Encoded, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        for example, (tags, scores) in zip(examples, _tagged(logits, encoded, names), strict=True):
            yield {
                "text": " ".join(example.tokens),
                "tokens": list(example.tokens),
                "tags": tags,
                "probabilities": [None if score is None else round(score, 6) for score in scores],
            }


def _tagged(
    logits: np.ndarray, encoded: Encoded, names: Sequence[str]
) -> Iterator[tuple[list[str], list[float | None]]]:
    """Yields for each example the tag of each word and its probability, None for words without a piece."""
    assert encoded.positions is not None  # this task's encode() has set them
    outside = OUTSIDE if OUTSIDE in names else names[0]
    for rows, places in zip(logits, encoded.positions, strict=True):
        probabilities = softmax(rows[places])
        numbers, scores = probabilities.argmax(-1), probabilities.max(-1)
        has_piece = places >= 0
        tags = [names[n] if there else outside for n, there in zip(numbers, has_piece, strict=True)]
        yield tags, [float(p) if there else None for p, there in zip(scores, has_piece, strict=True)]


def _first_pieces(word_index: np.ndarray, num_words: int) -> np.ndarray:
    """Returns the place of each word's first piece, int (num_words,), -1 for a word that has none."""
    places = np.full(num_words, -1)
    # The loop runs backwards, so that the first piece of a word overwrites the others.
    for place in reversed(range(len(word_index))):
        if word_index[place] >= 0:
            places[word_index[place]] = place
    return places
