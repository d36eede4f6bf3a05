"""Which of the tested cells `make test` leaves to `make wide`: those that show again what another cell shows.

Every case runs in replicas on `mirrored_2`. With another sum in the step, that of workers or of a mesh, one case of
each family is enough to show that it is right there. Processes take part in some families in a way of their own, and
those run on workers as a whole. More devices, more workers and the options of a mesh are for `make wide`; that they
train as one device does is also shown by tests of their own, in `tests/multi_device` and `tests/multi_process`.
"""

from __future__ import annotations

from tfdist.parity.registry import Case
from tfdist.parity.topologies import Topology

_EVERY_CASE = ("one_device", "mirrored_2")
_EVERY_FAMILY = ("workers_2x1", "mesh_2x2")
# What processes read, gather, save and decide together is other code than what devices of one process do.
_OF_PROCESSES = ("uneven", "predictions", "rows", "checkpoints", "callbacks")


def is_wide(case: Case, topology: Topology) -> bool:
    """Returns whether `make test` leaves the cell of a case, which the tests run on the topology, to `make wide`."""
    if topology.name in _EVERY_CASE:
        return False
    if topology.name not in _EVERY_FAMILY:
        return True
    return not (case.stands_for_family or (topology.num_processes > 1 and case.family in _OF_PROCESSES))
