"""One file for each format of examples.

A reader yields pairs: where an example stands, for messages; the example. No labels are numbered here, and nothing is
tokenized.
"""
