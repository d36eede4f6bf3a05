"""The parity cases, one module for each subject.

Each is a function of a `Context` alone; `tfdist.parity.registry` imports them all.
"""
