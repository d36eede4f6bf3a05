"""The stages of a call of `fit`, `evaluate` or `predict`, in order: entry, source, build, step, logs, results.

A file here sees a strategy through `contract.Distribution` alone, and knows no strategy by name.
"""
