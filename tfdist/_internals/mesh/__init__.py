"""One program over a DTensor mesh: its variables, batches, step and operations.

Only what is true of a mesh may come in; nothing of replicas may.
"""
