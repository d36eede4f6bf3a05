"""Patches that act inside a step, each a call of one method of the current `contract.Step`.

Nothing here knows a strategy; what differs between them is a method of their steps.
"""
