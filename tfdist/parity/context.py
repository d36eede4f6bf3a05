"""What a parity case may know of how it is distributed, and no more."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdist.parity.topologies import Topology

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Context:
    """The argument of every case.

    Attributes:
        topology: The topology on which the case runs.
        strategy: The strategy of this process, or None for plain Keras.
        process_index: Index of this process in its topology.
        folder: Scratch folder of this case, shared by the processes of the topology.
        unseeded: TensorFlow's global seed as the strategy left it in a script that sets none.
    """

    topology: Topology
    strategy: tf.distribute.Strategy | None
    process_index: int
    folder: Path
    unseeded: int | None = None

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """The scope in which models are built and compiled."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    @property
    def num_replicas(self) -> int:
        """Copies of the model over all processes, as Keras sees them; a mesh has one."""
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    @property
    def num_processes(self) -> int:
        """Worker processes."""
        return self.topology.num_processes

    @property
    def stock(self) -> bool:
        """Whether TensorFlow's own strategy is measured."""
        return self.topology.stock

    def meet(self, name: str, limit_s: float = 30.0) -> None:
        """Waits until every process of the topology is here; the processes meet by files and not by collectives.

        Raises:
            TimeoutError: Some process did not come within `limit_s` seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f".{name}.{self.process_index}").touch()
        deadline = time.monotonic() + limit_s
        while missing := [
            i for i in range(self.num_processes) if not (self.folder / f".{name}.{i}").exists()
        ]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Processes {missing} did not come to {name!r} within {limit_s} s.")
            time.sleep(0.01)

    def gather(self, name: str, value: np.ndarray) -> list[np.ndarray]:
        """Returns the `value` that each process gave, in the order of their indices."""
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / f"{name}.{self.process_index}.npy", value)
        self.meet(name)
        return [np.load(self.folder / f"{name}.{index}.npy") for index in range(self.num_processes)]

    @contextlib.contextmanager
    def random_by_row(self) -> Iterator[None]:
        """While open, a strategy of several devices gives each row the random numbers of one device."""
        strategy: Any = self.strategy
        if not hasattr(strategy, "random_by_row"):
            yield
            return
        strategy.random_by_row = True
        try:
            yield
        finally:
            strategy.random_by_row = False

    def forget_seeds(self) -> None:
        """Undoes the seeds that every case is given, which are the same in all processes."""
        import tensorflow as tf

        random.seed(None)
        np.random.seed(None)
        tf.random.set_seed(self.unseeded)

    def on_chief(self, name: str, action: Callable[[], object]) -> None:
        """Runs `action` in process 0 while the others wait for it."""
        if self.process_index == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            action()
        self.meet(name)
