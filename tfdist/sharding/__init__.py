"""Which axis of a mesh splits which dimension of which variable, as rules, reports and pictures.

Nothing here imports TensorFlow.
"""
