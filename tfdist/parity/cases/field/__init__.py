"""What people who train this way have met and reported in public, one module for each kind.

Each case fails on stock strategies or failed on tfdist; the right value is that of plain Keras on one device.
"""
