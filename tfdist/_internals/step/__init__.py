"""Patches that act inside a step; each calls methods of the current `contract.Step`.

Nothing here knows a strategy. What differs between strategies is in the methods of their steps.
"""
