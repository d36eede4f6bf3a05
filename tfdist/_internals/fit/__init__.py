"""What a call of `fit`, `evaluate` or `predict` passes, in its order: entry, source, build, step, logs, results.

A file here sees a strategy through `contract.Distribution` alone, and knows no strategy by name.
"""
