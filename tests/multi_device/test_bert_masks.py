"""Dropout of tfdist's BERT drops the same elements on several replicas as on one device, without being asked to."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import pytest

import tfdist
from tfdist.models import BertConfig, bert_classifier, build_bert
from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=8,
    hidden_dropout_prob=0.3,
    attention_probs_dropout_prob=0.3,
)


def weights(scope: Any, lengths: tuple[int, ...] = (6,), **options: Any) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    keras.utils.set_random_seed(3)
    with scope:
        model = bert_classifier(build_bert(CONFIG), 3, dropout=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, **options)
    for length in lengths:
        ids = generator.integers(1, 30, (17, length))
        inputs = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}
        model.fit(inputs, generator.integers(0, 3, 17), batch_size=8, shuffle=False, verbose=0)
    return [keras.ops.convert_to_numpy(one) for one in model.weights]


# The last batch has one row, so that a replica has none. Of two lengths the programs serve several shapes.
@pytest.mark.parametrize(
    ("lengths", "options"),
    [((6, 4), {}), ((6,), {"jit_compile": True})],
    ids=["two lengths", "compiled"],
)
def test_masks_are_those_of_one_device(lengths: tuple[int, ...], options: dict[str, Any]) -> None:
    strategy = tfdist.create_strategy("mirrored", devices=2, self_check="off" if options else "on")
    found = weights(strategy.scope(), lengths, **options)
    expected = weights(contextlib.nullcontext(), lengths)
    differences = [relative_difference(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(differences) <= RELATIVE_TOLERANCE, differences
