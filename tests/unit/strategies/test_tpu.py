"""`tpu` off a TPU: each thing that can be missing is said with its cure; the step compiles as one XLA program."""

from __future__ import annotations

import re
from typing import Any

import keras
import pytest
import tensorflow as tf

from tfdist import create_strategy
from tfdist._internals.contract import step_scope
from tfdist._internals.fit.global_step import synchronized
from tfdist._internals.patches import apply_patches
from tfdist._internals.replica.rows import RowPosition
from tfdist._internals.replica.step import ReplicaStep
from tfdist.errors import ClusterError, ConfigError
from tfdist.models.bert import bert_classifier, build_bert
from tfdist.models.bert_config import BertConfig
from tfdist.models.mlp import build_mlp
from tfdist.strategies import tpu as module


def test_a_tpu_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="tpu='' is no name of a TPU; give 'local'"):
        create_strategy("tpu", tpu="")


def test_tensorflow_without_tpu_support_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(resolver: Any) -> None:
        raise tf.errors.NotFoundError(None, None, "No OpKernel was registered for 'ConfigureDistributedTPU'")

    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", fails)
    with pytest.raises(ClusterError, match=r"built without TPU support.*pip install 'tfdist\[tpu\]'"):
        create_strategy("tpu")


def test_a_name_that_does_not_resolve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(tpu: str) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", fails)
    with pytest.raises(
        ClusterError, match="no TPU called 'mine' was found: Name or service not known.*gcloud"
    ):
        create_strategy("tpu", tpu="mine")


def test_a_tpu_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(resolver: Any) -> None:
        raise tf.errors.UnavailableError(None, None, "the TPU is being repaired")

    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", fails)
    with pytest.raises(ClusterError, match="did not start: the TPU is being repaired. Check"):
        create_strategy("tpu")


def bert() -> keras.Model:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return bert_classifier(
        build_bert(BertConfig(vocab_size=50, max_position_embeddings=8, **size)), num_labels=3
    )


IDS = tf.TensorSpec((4, 8), tf.int32)
MODELS = {
    "mlp": (lambda: build_mlp(num_features=6, hidden_units=5), tf.TensorSpec((4, 6))),
    "bert": (bert, {"token_ids": IDS, "segment_ids": IDS, "padding_mask": IDS}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_training_step_is_one_xla_program_of_static_shapes(name: str) -> None:
    assert module.TPU.pads_batches
    apply_patches()
    build, inputs = MODELS[name]
    model = build()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    labels = tf.TensorSpec((4,), tf.int32)
    model._symbolic_build(
        data_batch=tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), (inputs, labels))
    )

    on_replica = synchronized(model, model.train_step)

    @tf.function(jit_compile=True, autograph=False)
    def step(num_valid: tf.Tensor, labels: tf.Tensor, *leaves: tf.Tensor) -> Any:
        batch = (tf.nest.pack_sequence_as(inputs, leaves), labels)
        four = tf.constant(4, tf.int64)
        rows = RowPosition(tf.zeros([], tf.int64), four)
        with step_scope(ReplicaStep(num_valid, four, rows, padded=True)):
            return on_replica(batch, tf.constant(0.0))

    specs = (tf.TensorSpec((), tf.int64), labels, *tf.nest.flatten(inputs))
    program = step.experimental_get_compiler_ir(*specs)(stage="hlo")
    assert program.count("ENTRY") == 1
    # A dynamic dimension is written "<=4".
    assert not re.search(r"\[[^\]]*<=", program)
