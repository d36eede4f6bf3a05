"""Data parallelism: each replica holds the whole model and has a part of every batch.

Here are the batches, the step and the `tf.distribute` side of `mirrored`, `multi_worker_mirrored` and `tpu`. Nothing
here knows a mesh.
"""
