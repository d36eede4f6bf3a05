"""The command line. Each command is one file; none loads TensorFlow before it must."""
