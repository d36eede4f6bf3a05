"""Whole models of the kinds that people train, and tensors that a model has beside its variables."""
