"""What a check says: one line if the step is right, and otherwise what differs, what it usually is, and one cure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfdist._internals.check.compare import Difference
from tfdist._internals.check.result import Result
from tfdist._internals.check.variables import METRIC, SLOT, STATE, WEIGHT
from tfdist.numerics import RELATIVE_TOLERANCE

_NAMES = {"logs": "loss and logs", WEIGHT: "update", SLOT: "optimizer", STATE: "state", METRIC: "metrics"}
_SHOWN = 2
OFF = "create_strategy(..., self_check='warn') only warns, 'off' leaves the check out; so does TFDIST_SELF_CHECK."


def passed(result: Result) -> str:
    """Returns the line about a step that is right."""
    parts = ", ".join(
        f"{_NAMES[role]} {max((one.relative for one in listed), default=0.0):.1e}"
        for role, listed in result.differences.items()
        if listed
    )
    return (
        f"self check: a step on {result.num_rows} rows equals that of one device; largest relative difference of "
        f"{parts}; {result.seconds:.1f} s"
    )


def failed(result: Result, sum_error: float) -> str:
    """Returns the message about a step that is not right.

    Args:
        result: What was found.
        sum_error: How far sums of known vectors over the devices are from right.
    """
    cause, cure = _cause(result, sum_error)
    lines = [
        f"the first training step, on {result.num_rows} rows, is not the step of one device, and so training would go "
        "wrong. Nothing was changed."
    ]
    for role, listed in result.differences.items():
        failing = sorted((one for one in listed if one.fails), key=lambda one: -one.relative)
        lines += [f"  {_described(role, one)}" for one in failing[:_SHOWN]]
        if len(failing) > _SHOWN:
            lines.append(f"  and {len(failing) - _SHOWN} more of {_NAMES[role]}")
    if result.replicas_differ:
        lines.append(f"  after it the replicas' copies differ: {_some(result.replicas_differ)}")
    return "\n".join([*lines, f"What it usually is: {cause}", f"Cure: {cure}", OFF])


def _described(role: str, one: Difference) -> str:
    if role == "logs":
        return f"log {one.path!r}: {one.found:.6g}, on one device {one.expected:.6g}"
    what = {WEIGHT: "weight", SLOT: "optimizer's variable", STATE: "state", METRIC: "metric's state"}[role]
    if not np.isfinite(one.relative):
        return f"{what} {one.path!r}: another value than on one device"
    return (
        f"{what} {one.path!r}: its change is {one.relative:.1e} of itself off (size {one.found:.3g}, on one device "
        f"{one.expected:.3g})"
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _cause(result: Result, sum_error: float) -> tuple[str, str]:
    failing = {role: [one for one in listed if one.fails] for role, listed in result.differences.items()}
    off = failing[WEIGHT] + failing[SLOT]
    if not sum_error <= RELATIVE_TOLERANCE:
        return (
            "a sum of known vectors over the devices is wrong too, and so the network, a device or its driver is "
            "faulty.",
            "run `tfdist doctor` and `tfdist test` on each host, and leave out the one that is wrong.",
        )
    if result.has_own_step and off and not failing["logs"]:
        return (
            "train_step uses gradients before they are summed over the replicas, as in tf.clip_by_global_norm.",
            "sum them first: gradients = tfdist.sum_gradients(gradients); see docs/custom-steps.md.",
        )
    if off and result.runs_eagerly and not (failing["logs"] or result.has_own_loss or result.has_own_step):
        return (
            "run_eagerly=True: rows of a table that every replica looks up, such as positions, are there once on one "
            "device, which only a compiled step can tell.",
            "compile without run_eagerly; or, to look into the step, create_strategy(..., repeated_rows='sum'), under "
            "which such rows are summed everywhere.",
        )
    if off and result.has_own_loss:
        return (
            "the loss is no mean over the rows of the batch, such as a sum over it or a quotient of sums.",
            "return one value a row, and Keras takes the mean; or mark the loss with @tfdist.whole_batch_loss "
            "(docs/custom-steps.md).",
        )
    if off and result.has_own_step:
        return (
            "train_step computes something that is no mean over the rows, or uses gradients before they are summed.",
            "see docs/custom-steps.md: tfdist.mean_over_rows, gather_rows and sum_gradients are for that.",
        )
    if off:
        return (
            "a layer mixes the rows of the batch, or adds a loss that is no mean over them.",
            "tfdist.gather_rows gives a layer the rows of all replicas (docs/custom-steps.md); of batch normalization "
            "by hand, keras.layers.BatchNormalization(synchronized=True) is one that is right.",
        )
    if result.replicas_differ and not failing[STATE]:
        return (
            "the step writes another value on each replica, such as a variable that keeps rows.",
            "let all replicas write the same: gather the rows with tfdist.gather_rows, or name the variable's "
            "aggregation in add_weight.",
        )
    if failing[STATE]:
        return (
            "a layer keeps something that is no mean over the rows.",
            "name the variable's aggregation: add_weight(..., aggregation='sum', 'mean' or 'only_first_replica').",
        )
    return (
        "a metric keeps something that is no sum over the rows, or train_step returns a value of one replica's rows.",
        "keep sums and counts in the metric, or name the variable's aggregation; return metrics' results from "
        "train_step.",
    )
