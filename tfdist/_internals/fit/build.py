"""Builds the model from the dataset's element spec.

Stock takes a batch from the data to build the model. A generator then loses this batch, and those that were fetched
ahead of it. Text, Boolean, ragged and sparse inputs crash, because stock takes a mean of the batch over the replicas.
Several workers always crash.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

from tfdist._internals.contract import Distribution
from tfdist._internals.fit.agreement.meetings import note_built
from tfdist._internals.fit.run import run_of
from tfdist._internals.patch import Patch, of_model
from tfdist._internals.step.metrics import count_by_step
from tfdist.errors import UnsupportedError


def _from_spec(
    distribution: Distribution, stock: Any, model: Any, iterator: Any = None, data_batch: Any = None
) -> None:
    if iterator is not None:
        data_batch = tree.map_structure(_without_optional, iterator._distributed_dataset.element_spec)
    run_of(model).batch_spec = data_batch
    if type(model).call is not keras.Model.call:  # a GAN has none; its first step makes what is missing
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=data_batch)
    _place_variables(distribution, model)
    for metric in getattr(model._compile_loss, "metrics", ()):
        count_by_step(metric)
    distribution.check(model)
    note_built(model)


def rebuild(distribution: Distribution, model: Any) -> None:
    """Makes the variables of what a model was compiled with in the middle of a call: none can be made in a step."""
    _from_spec(distribution, None, model, data_batch=run_of(model).batch_spec)


def _place_variables(distribution: Distribution, model: Any) -> None:
    """Gives the strategy what all replicas would write of metrics and seeds made outside of its scope.

    Raises:
        UnsupportedError: A weight was made outside.
    """
    weights = {id(variable) for variable in model.weights}
    states = [variable for metric in model.metrics for variable in metric.variables]
    for variable in (*model.variables, *states):
        if variable._value is None or distribution.owns(variable._value):
            continue
        if id(variable) in weights:
            raise UnsupportedError(
                f"the variable {variable.path!r} of the model {model.name!r} was made outside of strategy.scope(): it "
                "is on one device. Make or load every layer of the model under `with strategy.scope():`."
            )
        with model.distribute_strategy.scope():
            variable._initialize(variable.numpy())


def _without_optional(leaf: Any) -> Any:
    return None if isinstance(leaf, tf.OptionalSpec) else leaf


PATCHES = (
    Patch(
        name="fit.build",
        owner=TensorFlowTrainer,
        attribute="_maybe_symbolic_build",
        make=of_model(_from_spec),
        reason="fit takes a batch to build the model: generators lose data, text crashes, several workers crash",
        upstream="https://github.com/keras-team/keras/issues/20585, https://github.com/keras-team/keras/issues/21172",
    ),
)
