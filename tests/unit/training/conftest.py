"""Logical CPU devices, made while pytest collects: their number is fixed at TensorFlow's first operation."""

from __future__ import annotations

from tfdist.devices import make_logical_cpus

make_logical_cpus(2)
