"""One thin file a strategy: its options, and what it is made of.

What a strategy does to Keras is in `_internals`; `create_strategy` is the one way in.
"""
