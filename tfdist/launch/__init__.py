"""Starts worker processes and watches over them: no TensorFlow here."""
