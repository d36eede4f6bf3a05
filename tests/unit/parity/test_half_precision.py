"""The tolerances of half precision are twice the spacing of its numbers, and plain Keras keeps within half of them.

Rounding depends on the order in which rows are added up. So plain Keras is held against itself with the rows of each
batch in reverse order, which in real numbers changes nothing.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfdist.numerics import BFLOAT16_TOLERANCE, FLOAT16_TOLERANCE, relative_difference
from tfdist.parity import tiny

TOLERANCES = {"mixed_bfloat16": BFLOAT16_TOLERANCE, "mixed_float16": FLOAT16_TOLERANCE}
COUNT = 31


def test_each_is_twice_the_spacing_of_its_numbers_at_one():
    assert 2 * np.finfo("float16").eps == FLOAT16_TOLERANCE
    one, after = (keras.ops.cast(value, "bfloat16") for value in (1.0, 1 + BFLOAT16_TOLERANCE / 2))
    assert one < after
    assert keras.ops.cast(1 + BFLOAT16_TOLERANCE / 4, "bfloat16") == one


def trained(policy: str, order: np.ndarray) -> list[np.ndarray]:
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny.mlp(lambda: keras.layers.BatchNormalization(synchronized=True))
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), tiny.crossentropy())
        features, labels = tiny.rows(COUNT)
        model.fit(features[order], labels[order], batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
        predictions = model.predict(features, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    return [*model.get_weights(), predictions]


@pytest.mark.parametrize("policy", TOLERANCES)
def test_plain_keras_is_within_half_of_it_of_itself(policy):
    forward = np.arange(COUNT)
    starts = range(0, COUNT, tiny.BATCH)
    backward = np.concatenate([forward[start : start + tiny.BATCH][::-1] for start in starts])
    pairs = zip(trained(policy, forward), trained(policy, backward), strict=True)
    differences = [relative_difference(one, other) for one, other in pairs]
    assert 0 < max(differences) <= TOLERANCES[policy] / 2, differences
