"""Meters that callbacks and benchmarks read: steps, rows, memory, gradient norms.

The Keras callbacks that show them are in `callbacks`.
"""
