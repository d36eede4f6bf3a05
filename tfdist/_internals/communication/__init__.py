"""Sums of gradients that are not exact: in a narrow dtype, or compressed; off unless an option asks for them.

Here are the options, the compressors with what they keep from step to step, and their sum; docs/communication.md tells
what each does. Nothing here knows a strategy: a `Link` exchanges tensors with the other replicas.
"""
