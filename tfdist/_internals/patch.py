"""What a patch is (one replaced function of Keras or TensorFlow, with its reason), and the two ways to make one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfdist._internals.contract import Step, current_step, distribution_of

Make = Callable[[Any], Any]


@dataclass(frozen=True)
class Patch:
    """One replaced function.

    Attributes:
        name: The module that holds it, as `step.losses`.
        owner: Object whose attribute is replaced.
        attribute: The attribute's name.
        make: Takes the stock function, returns the replacement.
        reason: What stock does wrong under a strategy.
        upstream: Where it is reported, or "no thread found".
    """

    name: str
    owner: Any
    attribute: str
    make: Make
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


def in_step(function: Callable[..., Any], step_here: Callable[[], Step | None] = current_step) -> Make:
    """Returns a maker of replacements: `function(step, stock, *args, **kwargs)` inside a step, stock elsewhere.

    Args:
        function: What runs inside a step.
        step_here: Returns the step that it is given, None where stock is right.
    """

    def make(stock: Any) -> Any:
        @functools.wraps(stock)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            step = step_here()
            return stock(*args, **kwargs) if step is None else function(step, stock, *args, **kwargs)

        return replacement

    return make


def of_model(function: Callable[..., Any]) -> Make:
    """Returns a maker of replacements for a method of a model.

    The replacement calls `function(distribution, stock, model, *args, **kwargs)` if the model's strategy has a
    `Distribution`, and the stock method if it has none.
    """

    def make(stock: Any) -> Any:
        @functools.wraps(stock)
        def replacement(model: Any, *args: Any, **kwargs: Any) -> Any:
            distribution = distribution_of(model.distribute_strategy)
            if distribution is None:
                return stock(model, *args, **kwargs)
            return function(distribution, stock, model, *args, **kwargs)

        return replacement

    return make
