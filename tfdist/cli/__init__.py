"""The command line: one file a command.

It may use everything; none of its files loads TensorFlow before it must.
"""
