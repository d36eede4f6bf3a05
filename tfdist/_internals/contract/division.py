"""What an update sees of its division among the replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf


class Division(Protocol):
    """Who makes the update of which variable, in a step of which each replica makes a part of the update."""

    def divides(self, optimizer: Any) -> bool:
        """Returns whether it is about the update of this optimizer, which is about to begin."""
        ...

    def take(self, variable: Any, handles: Sequence[Any]) -> list[tf.Operation] | None:
        """Gives the update of a variable to one of the replicas.

        Args:
            variable: The copy of this replica.
            handles: Of all that the update writes: the variable and its slots.

        Returns:
            None if another replica makes the update; otherwise what must have run before this one writes to the slots.
        """
        ...
