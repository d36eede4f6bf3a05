"""One label for one text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from tfdist.data import labels
from tfdist.data.examples import TextExample
from tfdist.models.bert import bert_classifier
from tfdist.tasks.base import Encoded, Tokenizer, softmax
from tfdist.tasks.report import Report, class_report


class TextClassification:
    """Classifies whole texts by the pooled output."""

    name: ClassVar[str] = "text-classification"
    logits_rank: ClassVar[int] = 2

    def parse_line(self, line: str) -> TextExample:
        return TextExample(line)

    def encode(
        self,
        examples: Sequence[TextExample],
        names: Sequence[str] | None,
        tokenizer: Tokenizer,
        max_length: int,
    ) -> Encoded:
        ids = tokenizer.encode_texts([example.text for example in examples], max_length)
        # A tokenizer without special tokens gives no id for an empty text, and a model needs at least one position.
        ids = [row if len(row) else np.array([tokenizer.unk_id], np.int32) for row in ids]
        return Encoded(ids, None if names is None else np.concatenate(labels.encode(examples, names)))

    def add_head(self, backbone: keras.Model, num_labels: int, dropout: float) -> keras.Model:
        return bert_classifier(backbone, num_labels, dropout)

    def report(
        self, examples: Sequence[TextExample], logits: np.ndarray, encoded: Encoded, names: Sequence[str]
    ) -> Report:
        return class_report(np.concatenate(labels.encode(examples, names)), logits.argmax(-1), names)

    def describe(
        self, examples: Sequence[TextExample], logits: np.ndarray, encoded: Encoded, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        for example, row in zip(examples, softmax(logits), strict=True):
            yield {
                "text": example.text,
                "label": names[int(row.argmax())],
                "probabilities": {name: round(float(p), 6) for name, p in zip(names, row, strict=True)},
            }
