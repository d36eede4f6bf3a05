"""The configuration of a run: its settings and their types, read from files and flags.

Nothing here imports more than the standard library and PyYAML.
"""
