"""Contestants of `benchmarks.finetune`, each a program of its own.

They share a folder with the job (tokens, labels, batches of each epoch) and take turns. All but `tfdist_run` run in any
Python that has the peer's packages: they import numpy, the peer, and of tfdist the turns alone, which are standard
library.
"""
