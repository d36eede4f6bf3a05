"""Finds from the environment which processes train together: one file for each kind of environment.

Nothing here imports TensorFlow.
"""

from tfdist.cluster.environments import detect_cluster
from tfdist.cluster.spec import ClusterInfo

__all__ = ["ClusterInfo", "detect_cluster"]
