"""Holds strategies against plain Keras on one device: cases, topologies, the table.

Nothing in the package but the command line imports it.
"""

from tfdist.parity.topologies import Topology, register_topology

__all__ = ["Topology", "register_topology"]
