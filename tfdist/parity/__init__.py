"""Compares strategies with plain Keras on one device: cases, topologies, the table.

Of the other packages, only the command line imports this one.
"""

from tfdist.parity.topologies import Topology, register_topology

__all__ = ["Topology", "register_topology"]
