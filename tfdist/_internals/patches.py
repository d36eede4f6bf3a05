"""The patches of Keras: what each mends, where upstream stands, and whether it is in force.

Nothing is patched on import. `create_strategy` applies all of them once; each acts only inside a tfdist strategy, so
that a stock strategy, or none, in the same process keeps the stock behaviour.
"""

from __future__ import annotations

import importlib

from tfdist._internals.patch import Patch

# Each defines PATCHES.
_MODULES = (
    "step.losses",
    "step.whole_batch",
    "step.metrics",
    "step.variables",
    "step.optimizers",
    "step.compiled_update",
    "step.loss_scaling",
    "step.batch_statistics",
    "step.random_numbers",
    "step.operations",
    "fit.results",
    "fit.build",
    "replica.device_input",
    "fit.epoch_iterator",
    "fit.train_function",
    "fit.predict_function",
    "fit.entry",
)


def list_patches() -> list[Patch]:
    """Returns every patch, in the order in which they are applied."""
    patches: list[Patch] = []
    for module in _MODULES:
        patches.extend(importlib.import_module(f"tfdist._internals.{module}").PATCHES)
    return patches


def apply_patches() -> None:
    """Puts every patch in force."""
    for patch in list_patches():
        patch.apply()
