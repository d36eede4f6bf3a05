import keras
import numpy as np
import pytest

from tfdist.config.schema import OptimizerConfig
from tfdist.models.bert import bert_classifier, build_bert
from tfdist.models.bert_config import BertConfig
from tfdist.training.optimizer import create_optimizer

TINY = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
)


def decayed(model: keras.Model) -> tuple[set[str], set[str]]:
    """Names of the variables that weight decay changes, and of those that it leaves alone."""
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))  # zeros would not show any decay
    optimizer = create_optimizer(OptimizerConfig(weight_decay=0.1, learning_rate=1.0, warmup_fraction=0.0), 5)
    optimizer.apply([keras.ops.zeros_like(v) for v in model.trainable_variables], model.trainable_variables)
    changed = {v.path: bool(np.any(np.asarray(v) != 1.0)) for v in model.trainable_variables}
    return {path for path, hit in changed.items() if hit}, {path for path, hit in changed.items() if not hit}


def check(model: keras.Model) -> None:
    hit, left = decayed(model)
    # Whatever has one dimension in a BERT is a bias or a norm; biases of heads have two, and say so by name.
    vectors = {v.path for v in model.trainable_variables if len(v.shape) == 1 or v.name == "bias"}
    assert left == vectors
    assert hit == {v.path for v in model.trainable_variables} - vectors
    assert any(path.endswith("kernel") for path in hit)


def test_decay_leaves_biases_and_norms_of_our_bert_alone():
    check(bert_classifier(build_bert(TINY), 2))


def test_decay_leaves_biases_and_norms_of_keras_hub_bert_alone():
    keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")
    check(
        keras_hub.models.BertBackbone(
            vocabulary_size=20,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=8,
            max_sequence_length=16,
        )
    )


def test_the_schedule_ends_with_the_run_and_clipping_is_on():
    optimizer = create_optimizer(OptimizerConfig(learning_rate=0.5), 10, gradient_accumulation_steps=2)
    assert optimizer.global_clipnorm == 1.0
    assert optimizer.gradient_accumulation_steps == 2
    assert float(optimizer._learning_rate(10)) == 0.0
