"""Which processes train together, found from the environment: one file for each kind.

No TensorFlow.
"""

from tfdist.cluster.environments import detect_cluster
from tfdist.cluster.spec import ClusterInfo

__all__ = ["ClusterInfo", "detect_cluster"]
