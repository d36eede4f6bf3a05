"""The command line: one file a command.

A command may use every other package. None loads TensorFlow before it has to.
"""
