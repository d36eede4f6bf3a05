"""Why a test of Keras that passes in plain Keras fails in the scope of a strategy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """Why tests fail.

    Attributes:
        tests: A regular expression that finds the names of the tests.
        why: A sentence for the page.
        strategies: In the scope of which.
    """

    tests: str
    why: str
    strategies: tuple[str, ...] = ("mirrored", "mesh")


# It would undo the devices of the strategy for all tests after it.
OWN_DEVICES = "test_swap_ema_weights_with_tf_distribute"

REASONS: tuple[Reason, ...] = (
    Reason(
        OWN_DEVICES,
        "The test makes a strategy and devices of its own, and scopes of two strategies do not nest.",
    ),
    Reason(
        "test_distributed_datasets_from_function",
        "The test enters the scope of a strategy of its own, and scopes of two strategies do not nest.",
    ),
    Reason(
        "OptimizerSparseTest::test_sparse_gradients",
        "The test looks for the model's variable among those that are updated, and each replica updates its own copy.",
        ("mirrored",),
    ),
    Reason(
        "test_internal_only_loss",
        "The model adds a sum over the rows as its loss, of which each replica has a part; the check refuses that.",
        ("mirrored",),
    ),
    Reason(
        "test_retracing$",
        "The test counts how often the step is traced, and the self check traces it once more.",
        ("mirrored",),
    ),
    Reason(
        "test_fit_sparse_(scipy|tf)_eager",
        "Where nothing is compiled it is not known which rows one device would have once; the self check refuses that.",
        ("mirrored",),
    ),
    Reason(
        "test_fit_sparse",
        "The test looks for sparse gradients, and a mesh makes sparse inputs dense, so that they have dense ones.",
        ("mesh",),
    ),
    Reason(
        "test_trainer_with_raggeds",
        "A mesh takes no ragged rows, since DTensor has dense tensors only, and filled up they would be other data.",
        ("mesh",),
    ),
)
