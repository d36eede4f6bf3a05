"""The only package that touches the internals of Keras and TensorFlow; one file a patch."""
