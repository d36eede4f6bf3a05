"""Joins the intervals of all workers: throughput, and where the time of a step goes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from tfdist.measure.step_meter import Interval

EXAMPLES_PER_SEC = "throughput/examples_per_sec"


def summarize(intervals: Sequence[Interval]) -> dict[str, float]:
    """Returns tag -> value for what the workers have measured in the same steps.

    Times are milliseconds for each step. Input, compute and waiting are means over the workers, and they add up to the
    whole step. The compute time is that of the worker that had the least: synchronous workers do the same work, so any
    other worker spent its surplus outside of its input waiting in a collective. So `waiting` is a lower bound, since
    the wait of the worker that waits least is not seen.

    Args:
        intervals: One of each worker, at least one.
    """
    seconds = fmean(interval.seconds for interval in intervals)
    scalars = {"step_time/total_ms": _per_step_ms(seconds, intervals[0])}
    examples: list[int] = [interval.examples for interval in intervals if interval.examples is not None]
    tokens: list[int] = [interval.tokens for interval in intervals if interval.tokens is not None]
    if len(examples) == len(intervals):
        scalars[EXAMPLES_PER_SEC] = sum(examples) / seconds
    if len(tokens) == len(intervals) and any(tokens):
        scalars["throughput/tokens_per_sec"] = sum(tokens) / seconds
    inputs: list[float] = [interval.input_s for interval in intervals if interval.input_s is not None]
    if len(inputs) == len(intervals):
        rests = [interval.seconds - input_s for interval, input_s in zip(intervals, inputs, strict=True)]
        scalars["step_time/input_ms"] = _per_step_ms(fmean(inputs), intervals[0])
        scalars["step_time/compute_ms"] = _per_step_ms(min(rests), intervals[0])
        if len(intervals) > 1:
            scalars["step_time/waiting_ms"] = _per_step_ms(fmean(rests) - min(rests), intervals[0])
    return scalars


def _per_step_ms(seconds: float, interval: Interval) -> float:
    return 1000 * seconds / interval.num_steps
