"""Measurements of speed and of communication; run as `python -m benchmarks.NAME`."""
