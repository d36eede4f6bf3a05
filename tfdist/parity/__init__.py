"""Tools that compare a strategy with one device, for tests and for `tfdist test`."""

from tfdist.parity.topologies import Topology, register_topology

__all__ = ["Topology", "register_topology"]
