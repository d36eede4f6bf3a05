"""The topologies of the parity cases: which strategy, how many processes, and how many devices in each."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

PLAIN = "plain"


@dataclass(frozen=True)
class Topology:
    """One way of distributing a case.

    Attributes:
        name: The column of the table.
        strategy: Public name of the strategy that the processes create, or `"plain"` for Keras without any.
        options: Options for `tfdist.create_strategy`.
        num_processes: Worker processes, on loopback.
        devices: Logical CPU devices in each process; some cases count by them.
        stock: Whether the strategy is TensorFlow's own instead of tfdist's.
        bit_equal: Whether results must equal those of plain Keras to the bit.
        optimized: Whether TensorFlow's optimizer of graphs runs, which takes a third of the time of a case on a mesh.
    """

    name: str
    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    num_processes: int = 1
    devices: int = 1
    stock: bool = False
    bit_equal: bool = False
    optimized: bool = True

    def create_strategy(self) -> tf.distribute.Strategy | None:
        """Creates the strategy in this process. If there are several processes, `TF_CONFIG` is set already.

        Returns:
            The strategy, or None for plain Keras.
        """
        if self.strategy == PLAIN:
            return None
        if not self.optimized:
            import tensorflow as tf

            tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        if self.stock:
            return self._create_stock_strategy()
        from tfdist import create_strategy

        # The cases compare whole runs themselves; `benchmarks/self_check.py` runs them with the check.
        return create_strategy(self.strategy, self_check="off", **self.options)

    def _create_stock_strategy(self) -> tf.distribute.Strategy:
        import tensorflow as tf

        if self.num_processes > 1:
            return tf.distribute.MultiWorkerMirroredStrategy()
        host = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            host, [tf.config.LogicalDeviceConfiguration()] * self.devices
        )
        return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(self.devices)])


REFERENCE = Topology("plain_keras", PLAIN)

TOPOLOGIES: dict[str, Topology] = {}


def register_topology(topology: Topology) -> Topology:
    """Registers a topology by its name, which `--topologies` of `python -m tfdist.parity` then takes.

    Returns:
        The topology.

    Raises:
        ValueError: Another topology has the name.
    """
    if TOPOLOGIES.setdefault(topology.name, topology) != topology:
        raise ValueError(f"Two topologies are called {topology.name!r}.")
    return topology


def import_module(module: str) -> None:
    """Imports a module from outside of the package, which registers strategies and topologies; does so once.

    Args:
        module: The name of a module, or the path of a file that ends in `.py`.

    Raises:
        ImportError: There is no such module or file.
    """
    if not module.endswith(".py"):
        importlib.import_module(module)
        return
    path = Path(module)
    if path.stem in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module} is no file of Python.")
    sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[path.stem])


def _mesh(
    name: str,
    num_processes: int = 1,
    *,
    batch: int = 1,
    model: int = 1,
    optimized: bool = False,
    **options: Any,
) -> Topology:
    axes = {axis: size for axis, size in (("batch", batch), ("model", model)) if size > 1}
    devices = batch * model // num_processes
    return Topology(name, "mesh", {"mesh": axes} | options, num_processes, devices, optimized=optimized)


for _topology in (
    REFERENCE,
    Topology("stock_mirrored_2", "mirrored", devices=2, stock=True),
    Topology("stock_workers_2x1", "multi_worker_mirrored", num_processes=2, stock=True),
    Topology("one_device", "one_device", bit_equal=True),
    Topology("mirrored_2", "mirrored", {"devices": 2}, devices=2),
    Topology("mirrored_4", "mirrored", {"devices": 4}, devices=4),
    Topology("workers_2x1", "multi_worker_mirrored", {"devices_per_worker": 1}, num_processes=2),
    Topology("workers_3x1", "multi_worker_mirrored", {"devices_per_worker": 1}, num_processes=3),
    Topology("workers_2x2", "multi_worker_mirrored", {"devices_per_worker": 2}, num_processes=2, devices=2),
    _mesh("mesh_2x1", batch=2),
    _mesh("mesh_1x2", model=2),
    _mesh("mesh_1x4", model=4),
    _mesh("mesh_2x2", batch=2, model=2, optimized=True),
    _mesh("mesh_2x2_optimizer", batch=2, model=2, shard_optimizer=True),
    _mesh("mesh_2x2_sharded", batch=2, model=2, shard_weights=True),
    _mesh("mesh_workers_2x2", num_processes=2, batch=2, model=2),
):
    register_topology(_topology)
