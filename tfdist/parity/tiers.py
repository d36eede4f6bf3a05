"""Which of the tested cells `make test` leaves to `make wide`: those that show again what another cell shows.

Every case runs in replicas on `mirrored_2`. On another topology the step is the same code with another sum, so that one
case of each family is enough to show that it is right there. Processes take part in some families in a way of their
own, and those run on workers as a whole.
"""

from __future__ import annotations

from tfdist.parity.topologies import Topology

# What processes read, gather, save and decide together is other code than what devices of one process do.
_OF_PROCESSES = ("uneven", "predictions", "rows", "checkpoints", "callbacks")
_EVERY_CASE = ("one_device", "mirrored_2")
# More of what two replicas, two workers or a grid of two axes show, or one axis of the grid.
_MORE_OF_THE_SAME = ("mirrored_4", "workers_3x1", "workers_2x2", "mesh_2x1", "mesh_1x2", "mesh_1x4")


def is_wide(topology: Topology, family: str, stands_for_family: bool) -> bool:
    """Returns whether `make test` leaves a tested cell to `make wide`.

    Args:
        topology: The topology of the cell.
        family: The family of its case.
        stands_for_family: Whether the case is the one that is enough for its family.
    """
    if topology.name in _MORE_OF_THE_SAME:
        return True
    if stands_for_family or topology.name in _EVERY_CASE:
        return False
    return not (topology.strategy == "multi_worker_mirrored" and family in _OF_PROCESSES)
