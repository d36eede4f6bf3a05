"""Medians with quartiles, and ratios of contestants that took turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

# Name of a contestant -> for each round, the seconds of its steps.
Samples = Mapping[str, Sequence[Sequence[float]]]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def ratio(samples: Samples, name: str, to: str) -> dict[str, float]:
    """Returns the summary over rounds of (median step of `name`) / (median step of `to`)."""
    pairs = zip(samples[name], samples[to], strict=True)
    return summary([statistics.median(one) / statistics.median(other) for one, other in pairs])
