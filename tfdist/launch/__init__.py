"""Starts the worker processes of this host and watches them to their end.

Nothing here imports TensorFlow, so that a launcher holds no GPU.
"""
