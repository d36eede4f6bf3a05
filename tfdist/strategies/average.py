"""`tfdist.average_weights`: ends a round of local steps, so that weights can be read or saved within an epoch."""

from __future__ import annotations

from typing import Any

from tfdist._internals.contract import distribution_of


def average_weights(model: Any) -> None:
    """Averages the replicas' weights and the slots of the optimizer now, and not at the end of the round.

    All processes call it. It is for what reads or saves weights in the middle of an epoch under `local_steps`; where
    all steps are synchronous it does nothing. See docs/local-steps.md.

    Args:
        model: A Keras model.

    Raises:
        WorkerError: A process did not arrive.
    """
    distribution = distribution_of(model.distribute_strategy)
    if distribution is not None:
        distribution.settle(model, slots=True)
