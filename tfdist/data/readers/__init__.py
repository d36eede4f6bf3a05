"""One file for each format of examples.

A reader yields pairs: the place of an example, for messages, and the example. Nothing here numbers labels or tokenizes.
"""
