"""Which processes train together, found from the environment; knows nothing of TensorFlow."""

from tfdist.cluster.environments import detect_cluster
from tfdist.cluster.spec import ClusterInfo

__all__ = ["ClusterInfo", "detect_cluster"]
