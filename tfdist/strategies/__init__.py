"""One thin file for each strategy: its options, and what it is made of.

The changes of Keras are in `_internals`. `create_strategy` creates every strategy.
"""
