"""Data parallelism: replicas that each hold the whole model, and a share of every batch.

The batches, the step and the `tf.distribute` side of `mirrored`, `multi_worker_mirrored` and `tpu` live here; nothing
of a mesh may come in.
"""
