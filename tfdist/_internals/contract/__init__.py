"""The contract between Keras's `fit`, the patches and a strategy; nothing else may come in.

`fit` and the patches around it see a strategy as a `Distribution`; the patches inside a step see a `Step`. A stock
strategy has neither, and stays stock.
"""

from tfdist._internals.contract.distribution import (
    Batches,
    Distribution,
    describe,
    distribution_of,
    row_shards_of,
)
from tfdist._internals.contract.step import Step, current_step, step_scope

__all__ = [
    "Batches",
    "Distribution",
    "Step",
    "current_step",
    "describe",
    "distribution_of",
    "row_shards_of",
    "step_scope",
]
