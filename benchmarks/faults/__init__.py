"""Faults that are planted for `benchmarks.self_check`: each is a training script that is right on one device only."""

from __future__ import annotations

from benchmarks.faults.model import Fault, all_faults

__all__ = ["Fault", "all_faults"]
