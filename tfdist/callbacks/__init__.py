"""Keras callbacks; one class a file."""
