"""Local steps: each replica updates its own copy of the weights for a round of steps, and then all of them average."""
