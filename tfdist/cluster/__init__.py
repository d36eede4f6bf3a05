"""Who takes part in a run and which of them this process is: no TensorFlow here."""
