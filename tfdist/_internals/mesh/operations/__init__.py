"""Operations of Keras as a mesh runs them, made of operations for which DTensor has layout rules.

`table` has them all by name; nothing else is imported from outside.
"""
