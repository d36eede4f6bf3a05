"""Parts of `benchmarks.gpu`: its models, and what is computed from the times.

FLOPs follow from a formula, and peaks from the device's name; where a name is not known, the share of the peak is not.
"""
