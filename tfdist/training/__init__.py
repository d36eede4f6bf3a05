"""One run from a configuration to the files in its folder.

The only place that composes strategy, data, model and callbacks; no loop of its own.
"""
