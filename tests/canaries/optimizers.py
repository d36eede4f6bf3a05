"""Canaries of the patches of optimizers and loss scaling."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from canary import BATCH, assert_one_device, canary, collectives, compiled, rows, strategy

from tfdist._internals.step.compiled_update import set_compiled_update


@canary({"_all_reduce_sum_gradients": r"weight 0 differs by 1\.5"})
def gradients_are_summed_once() -> None:
    assert_one_device(lambda: compiled(metrics=["accuracy"]))


class OwnStep(keras.Sequential):
    """Takes the gradients of a loss of its own."""

    def train_step(self, data: Any) -> Any:
        features, labels = data
        with tf.GradientTape() as tape:
            logits = self(features, training=True)
            loss = keras.ops.mean(
                keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            )
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(features, labels, logits)


def accumulating(**options: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.5, gradient_accumulation_steps=2, **options)


@canary({"BaseOptimizer.apply": r"weight 0 differs by 0\.24"})
def accumulation_of_shares() -> None:
    def build() -> keras.Model:
        return OwnStep([keras.layers.Input((4,)), keras.layers.Dense(3)])

    assert_one_device(lambda: compiled(build, accumulating))


@canary({"_clip_gradients": "weight 0 differs by 0.034"})
def clipping_of_the_accumulated_sum() -> None:
    assert_one_device(lambda: compiled(optimizer=lambda: accumulating(global_clipnorm=0.1)))


@canary({"BaseOptimizer.__init__": r"weight 0 differs by 0\.067"})
def an_apply_of_the_users_own() -> None:
    # A new class each time: the patch is put on a class when its first object is made.
    class Normalized(keras.optimizers.SGD):
        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            norm = tf.linalg.global_norm(list(grads))
            return super().apply([gradient / norm for gradient in grads], trainable_variables)

    assert_one_device(lambda: compiled(optimizer=lambda: Normalized(0.1)), rows(24))


def poisoned() -> tuple[np.ndarray, np.ndarray]:
    features, labels = rows(16)
    features[1] = np.inf
    return features, labels


def scaled(**options: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, **options))


@canary({"LossScaleOptimizer.apply": "^AssertionError: 3 collectives"})
def finiteness_of_the_sum() -> None:
    number = collectives(optimizer=scaled)
    assert number == 1, f"{number:g} collectives"


@canary({"LossScaleOptimizer._tf_apply": r"weight 0 differs by 0\.14"})
def the_decision_in_an_eager_step() -> None:
    assert_one_device(lambda: compiled(optimizer=scaled, run_eagerly=True), rows(16))


@canary({"LossScaleOptimizer.check_finite": r"step_counter is \[1\.0, 2\.0\] on the replicas"})
def accumulated_gradient_that_is_not_finite() -> None:
    # No update falls into these two steps, where replicas that disagree would wait for each other for ever.
    with strategy().scope():
        model = compiled(optimizer=lambda: scaled(gradient_accumulation_steps=4))
    model.fit(*poisoned(), batch_size=BATCH, shuffle=False, verbose=0)
    counters = [variable for variable in model.optimizer.variables if len(variable.shape) == 0]
    for variable in counters:
        values = [float(value) for value in strategy().experimental_local_results(variable.value)]
        assert len(set(values)) == 1, f"{variable.path} is {values} on the replicas"


def passes_over_the_weights() -> int:
    """Returns how many operations of a compiled AdamW update write a whole weight outside of its programs."""
    set_compiled_update(strategy(), True)
    try:
        with strategy().scope():
            kernel = keras.Variable(np.ones((160, 128), "float32"), name="kernel")
            optimizer = keras.optimizers.AdamW(0.1)
            optimizer.build([kernel])

        @tf.function(autograph=False)
        def step() -> None:
            strategy().run(lambda: optimizer.apply([tf.ones(kernel.shape)]))

        operations = step.get_concrete_function().graph.get_operations()
    finally:
        set_compiled_update(strategy(), "auto")
    return sum("Assign" in one.type and one.inputs[1].shape == kernel.shape for one in operations)


@canary(
    {
        "TFOptimizer._apply_weight_decay": "^AssertionError: 2 passes",
        "_backend_apply_gradients": "^AssertionError: 8 passes",
        "_distributed_tf_update_step": "^AssertionError: 6 passes",
    }
)
def an_update_in_one_pass() -> None:
    number = passes_over_the_weights()
    assert number == 0, f"{number} passes"
