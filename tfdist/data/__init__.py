"""Examples from files, packages and TFDS; labels; sharding; batches. Knows nothing of strategies.

`sources.load_splits` gives examples, `labels` numbers their labels, and, once a task has tokenized them,
`batches.make_dataset` turns them into a `tf.data.Dataset`. TensorFlow is imported by the modules that need
it.
"""
