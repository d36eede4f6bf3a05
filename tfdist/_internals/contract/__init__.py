"""The contract between Keras's `fit`, the patches and a strategy; nothing else may come in.

`fit` and the patches around it see a strategy as a `Distribution`; the patches inside a step see a `Step`. A stock
strategy has neither, and stays stock.
"""

from tfdist._internals.contract.distribution import (
    Batches,
    Distribution,
    Sample,
    describe,
    distribution_of,
    is_foreign,
    row_shards_of,
)
from tfdist._internals.contract.division import Division
from tfdist._internals.contract.step import (
    Step,
    current_step,
    drawing_step,
    drawn_by,
    seed_of_part,
    sizes_of_replicas,
    step_scope,
)
from tfdist._internals.contract.sums import SizesVaryError

# A variable of this name only tells of a training: how many rows there were, or how long a step has waited for them.
METER_NAME = "tfdist_meter"

__all__ = [
    "METER_NAME",
    "Batches",
    "Distribution",
    "Division",
    "Sample",
    "SizesVaryError",
    "Step",
    "current_step",
    "describe",
    "distribution_of",
    "is_foreign",
    "drawing_step",
    "drawn_by",
    "row_shards_of",
    "seed_of_part",
    "sizes_of_replicas",
    "step_scope",
]
