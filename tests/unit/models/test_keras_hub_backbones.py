"""KerasHub's backbones train unchanged; their parity is tested where the strategies are."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfdist.models import bert_classifier

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed (pip install 'tfdist[hub]')")

SIZE = {"vocabulary_size": 30, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
IDS = np.random.default_rng(0).integers(1, 30, (4, 6)).astype("int32")
MASK = np.ones_like(IDS)


def _bert():
    backbone = keras_hub.models.BertBackbone(**SIZE, max_sequence_length=8)
    return backbone, bert_classifier(backbone, num_labels=2), {"segment_ids": np.zeros_like(IDS)}


def _distil_bert():
    backbone = keras_hub.models.DistilBertBackbone(**SIZE, max_sequence_length=8)
    return backbone, keras.Model(backbone.input, keras.layers.Dense(2)(backbone.output[:, 0, :])), {}


@pytest.mark.parametrize("build", [_bert, _distil_bert])
def test_backbone_trains(build):
    backbone, model, more = build()
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = backbone.get_weights()
    inputs = {"token_ids": IDS, "padding_mask": MASK, **more}
    history = model.fit(inputs, np.array([0, 1, 0, 1]), batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert any((old != new).any() for old, new in zip(before, backbone.get_weights(), strict=True))
