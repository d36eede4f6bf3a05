"""What a run can be told, typed and read from files and flags.

Standard library and PyYAML only; no TensorFlow.
"""
