"""The fixtures of `small_model`."""

from small_model import data, model

__all__ = ["data", "model"]
