"""The classes that strategies are made of, also those from outside of this package (`tfdist.register_strategy`)."""

from __future__ import annotations

from tfdist._internals.contract import Batches, Distribution, Step, current_step
from tfdist._internals.replica.distribution import ReplicaDistribution
from tfdist._internals.replica.step import ReplicaStep
from tfdist.errors import ConfigError

__all__ = [
    "Batches",
    "Distribution",
    "ReplicaDistribution",
    "ReplicaStep",
    "Step",
    "check_timeout",
    "current_step",
]


def check_timeout(timeout_s: float) -> None:
    """Raises ConfigError unless `timeout_s` is above 0, in seconds."""
    if not timeout_s > 0:
        raise ConfigError(f"timeout_s={timeout_s} is not possible; give seconds above 0, for example 300.")
