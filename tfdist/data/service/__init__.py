"""Batches that other processes prepare, over tf.data's service: its processes, and who takes the batches in order."""
