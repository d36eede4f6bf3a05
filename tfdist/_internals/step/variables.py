"""A step sees every Keras variable that is written in it, and says which value is kept.

The variables that were written tell what the parts must share at the end of the step (moving statistics), and which
metrics have new values. A replica without rows of its own runs on one row of padding, so that no layer is given an
empty batch. What its metrics count of that row is not kept.
"""

from __future__ import annotations

from typing import Any

from keras.src.backend.tensorflow.core import Variable

from tfdist._internals.contract import Step
from tfdist._internals.patch import Patch, in_step


def _stored(step: Step, stock: Any, variable: Any, value: Any) -> Any:
    return stock(variable, step.stored(variable, value))


PATCHES = (
    Patch(
        name="step.variables",
        owner=Variable,
        attribute="_direct_assign",
        make=in_step(_stored),
        reason="nothing tells which variables a step wrote, and a replica without rows crashes or counts padding",
        upstream="https://github.com/keras-team/keras/issues/19246",
    ),
)
