"""Whole models of the kinds that people train, and what a model has beside its variables.

No case here knows a strategy.
"""
