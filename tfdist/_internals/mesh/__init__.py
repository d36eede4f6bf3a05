"""One program over a DTensor mesh: its variables, batches, step and operations.

Nothing here knows replicas.
"""
