"""What `tfdist bench` measures; each contestant trains in a process of its own, and these take turns of a few steps.

Only one works at a time, and the order of the turns alternates; other work on the machine then slows all alike, and the
ratios hold where times do not. `benchmarks/` in a checkout has the longer measurements, made of the same parts.
"""
