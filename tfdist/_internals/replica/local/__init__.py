"""Local steps: each replica updates its own copy of the weights for a round of steps, and then all of them average.

`distribution` is what a strategy gets, `rounds` counts, `average` and `outer` are what happens at the end of a round,
and `step` and `runner` are what is done in it.
"""
