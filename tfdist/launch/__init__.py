"""Starts the worker processes of this host and watches them; knows nothing of TensorFlow."""
