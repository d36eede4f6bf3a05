"""Several steps in one execution, compilation, traces, collectives, mixed precision."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.cases.results import BatchLogs
from tfdist.parity.context import Context
from tfdist.parity.inspection import count_collectives
from tfdist.parity.registry import NO_MESH, WIDE, case


def _adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(0.05)


@case("executions", each=["2", "3"], on=WIDE, stands_for_family=True)
def steps_per_execution(context: Context, steps: str) -> dict[str, Any]:
    """Several steps in one execution over five batches, the last one uneven; fit, evaluate and predict."""
    model = tiny.compiled(context, optimizer=_adam, metrics=["accuracy"], steps_per_execution=int(steps))
    logs = BatchLogs()
    features, labels = tiny.rows(53)
    found = tiny.fitted(context, model, 53, callbacks=[logs], validation_data=(features[:31], labels[:31]))
    # A second model takes one step at a time, in the same scope. Everything is the same but the logs of batches.
    single = tiny.compiled(context, optimizer=_adam, metrics=["accuracy"])
    expected = tiny.fitted(context, single, 53, validation_data=(features[:31], labels[:31]))
    evaluated = model.evaluate(features, labels, batch_size=tiny.BATCH, verbose=0)
    predictions = model.predict(features, batch_size=tiny.BATCH, verbose=0)
    return found | {
        "exact/batches": np.asarray(logs.batches),
        "metrics/batch loss": np.asarray([log["loss"] for log in logs.logs]),
        "metrics/evaluate": np.asarray(evaluated),
        "predict/all": predictions,
        "true/as one step": all(
            np.allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
            for name in expected
            if name in found
        ),
    }


@case("executions")
def accumulation_in_executions(context: Context) -> dict[str, Any]:
    """Three steps in one execution with Adam and gradient accumulation; uneven batches."""
    model = tiny.compiled(
        context,
        tiny.mlp,
        lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2),
        steps_per_execution=3,
    )
    return tiny.fitted(context, model, 53)


class TraceCounter(keras.Model):
    """One dense layer whose `train_step` counts how often Python runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = tiny.dense()
        self.calls = np.zeros((), "int64")

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)

    def train_step(self, data: Any) -> Any:
        self.calls += 1
        return super().train_step(data)


@case("compilation", quick=True, refused_by=NO_MESH)
def traces(context: Context) -> dict[str, Any]:
    """The step is traced once for each replica; uneven batches, epochs and a second fit trace no more."""
    model = tiny.compiled(context, TraceCounter)
    found = tiny.fitted(context, model, 31, epochs=3)
    tiny.fitted(context, model, 25)
    return found | {
        "true/one trace": int(model.calls) <= context.topology.devices,
        "agree/calls": model.calls,
    }


@case("compilation", refused_by=NO_MESH)
def compiled_with_xla(context: Context) -> dict[str, Any]:
    """`jit_compile=True` gives what no compilation gives, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, tiny.mlp, _adam, jit_compile=True), 25)


@case("compilation")
def xla_by_measurement(context: Context) -> dict[str, Any]:
    """`jit_compile="auto"` measures steps with and without XLA, which leave nothing behind; uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, tiny.mlp, _adam, jit_compile="auto"), 25)


@case("compilation", refused_by=NO_MESH)
def eager(context: Context) -> dict[str, Any]:
    """`run_eagerly=True`, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, run_eagerly=True), 25)


def _collectives(context: Context, build: Any, optimizer: Any, **options: Any) -> dict[str, Any]:
    model = tiny.compiled(
        context, build, optimizer, metrics=["accuracy", "sparse_top_k_categorical_accuracy"], **options
    )
    found = tiny.fitted(context, model)
    allowed = context.topology.devices if context.num_replicas > 1 else 0
    return found | {"true/one collective": count_collectives(model) <= allowed}


COLLECTIVE_STEPS: dict[str, Any] = {
    "plain": lambda: keras.optimizers.Adam(0.05),
    "clipped": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.05),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)),
}


@case("compilation", each=COLLECTIVE_STEPS, refused_by=NO_MESH, stands_for_family=True)
def one_collective(context: Context, name: str) -> dict[str, Any]:
    """The graph of a step holds one collective for the gradients and none for logs and counters."""
    return _collectives(context, tiny.mlp, COLLECTIVE_STEPS[name])


@case("compilation", refused_by=NO_MESH)
def collectives_of_accumulation(context: Context) -> dict[str, Any]:
    """One for the gradients of an update, in its condition, and one for what every batch's logs need."""
    model = tiny.compiled(
        context,
        tiny.mlp,
        lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2),
        metrics=["accuracy"],
    )
    found = tiny.fitted(context, model)
    allowed = 2 * context.topology.devices if context.num_replicas > 1 else 0
    return found | {"true/two collectives": count_collectives(model) <= allowed}


@case("compilation", refused_by=NO_MESH)
def collectives_of_a_normalized_model(context: Context) -> dict[str, Any]:
    """Synchronized batch normalization costs one more collective forward and one backward."""
    model = tiny.compiled(
        context, lambda: tiny.mlp(lambda: keras.layers.BatchNormalization(synchronized=True))
    )
    found = tiny.fitted(context, model)
    allowed = 3 * context.topology.devices if context.num_replicas > 1 else 0
    return found | {"true/three collectives": count_collectives(model) <= allowed}


@case("compilation", refused_by=NO_MESH)
def global_state_in_replicas(context: Context) -> dict[str, Any]:
    """The dtype policy and the flash-attention flag that the user set are seen inside the step."""
    seen: list[str] = []

    class Observer(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            seen.append(f"{keras.config.dtype_policy().name} {keras.config.is_flash_attention_enabled()}")
            return inputs

    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.disable_flash_attention()
    try:
        model = tiny.compiled(context, lambda: tiny.mlp(Observer))
        seen.clear()
        history = model.fit(*tiny.rows(25), batch_size=tiny.BATCH, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.enable_flash_attention()
    return {
        "true/seen": len(seen) > 0 and set(seen) == {"mixed_bfloat16 False"},
        "true/finite": np.isfinite(history.history["loss"]).all(),
        "agree/loss": np.asarray(history.history["loss"]),
    }


@case("precision", each=["mixed_float16", "mixed_bfloat16"], stands_for_family=True)
def mixed_precision(context: Context, policy: str) -> dict[str, Any]:
    """Mixed precision, loss scaling under float16, synchronized batch normalization, momentum; uneven batches."""
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny.compiled(
            context,
            lambda: tiny.mlp(lambda: keras.layers.BatchNormalization(synchronized=True)),
            lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        )
        found = tiny.fitted(context, model, 31)
        predictions = model.predict(tiny.rows(31)[0], batch_size=tiny.BATCH, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    kind = policy.removeprefix("mixed_")
    halves = {name: value for name, value in found.items() if name.startswith(("weights/", "history/"))}
    return {f"{kind}/{name}": value for name, value in halves.items()} | {
        f"{kind}/predictions": predictions.astype("float32"),
        "exact/iterations": found["exact/iterations"],
        "exact/dtypes": np.asarray([tf.as_dtype(variable.dtype).name for variable in model.variables]),
        "zero/replicas": found["zero/replicas"],
    }
