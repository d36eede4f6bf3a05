"""The patches of Keras: what each mends, where upstream stands, and whether it is in force.

Nothing is patched on import. `create_strategy` applies all of them once; each acts only inside a tfdist strategy, so
that a stock strategy, or none, in the same process keeps the stock behaviour.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# One module a patch; each defines PATCH.
_MODULES = (
    "step.losses",
    "step.metrics",
    "step.variables",
    "step.optimizers",
    "step.loss_scaling",
    "step.batch_statistics",
    "step.seeds",
    "step.random_numbers",
    "mesh.recurrent",
    "mesh.layers",
    "mesh.lookup",
    "mesh.arrays",
    "fit.results",
    "fit.build",
    "replica.device_input",
    "fit.epoch_iterator",
    "fit.train_function",
    "fit.predict_function",
    "fit.entry",
)


@dataclass(frozen=True)
class Patch:
    """One replaced function of Keras.

    Attributes:
        name: The module of this package that holds it.
        owner: Object whose attribute is replaced.
        attribute: The attribute's name.
        make: Takes the stock function, returns the replacement.
        reason: What stock does wrong under a strategy.
        upstream: Where it is reported, or "no thread found".
    """

    name: str
    owner: Any
    attribute: str
    make: Callable[[Any], Any]
    reason: str
    upstream: str

    @property
    def target(self) -> str:
        """The dotted name of what is replaced."""
        owner = getattr(self.owner, "__qualname__", None)
        module = self.owner.__module__ if owner else self.owner.__name__
        return ".".join(part for part in (module, owner, self.attribute) if part)

    @property
    def active(self) -> bool:
        """Whether it is in force in this process."""
        return hasattr(getattr(self.owner, self.attribute), "_tfdist_stock")

    def apply(self) -> None:
        """Puts it in force; applying twice changes nothing."""
        if not self.active:
            stock = getattr(self.owner, self.attribute)
            replacement = self.make(stock)
            replacement._tfdist_stock = stock
            setattr(self.owner, self.attribute, replacement)

    def revert(self) -> None:
        """Puts the stock function back."""
        if self.active:
            setattr(self.owner, self.attribute, getattr(self.owner, self.attribute)._tfdist_stock)


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
