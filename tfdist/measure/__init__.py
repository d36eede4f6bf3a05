"""Meters that callbacks and benchmarks read: steps, rows, memory, gradient norms.

Keras callbacks stand above, in `callbacks`; here is what they read.
"""
