"""The layouts that the parity cases run on: which strategy, how many processes, how many devices in each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tfdist.parity.comparison import RELATIVE_TOLERANCE

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Layout:
    """One way of distributing a case.

    Attributes:
        name: The column of the table.
        strategy: Which strategy the processes create; `"plain"` is Keras without any strategy.
        num_processes: Worker processes, on loopback.
        devices: Logical CPU devices in each process.
        stock: Whether the strategy is TensorFlow's own instead of tfdist's.
        mesh: Axes and sizes of a mesh, shared by the processes; it is one replica to Keras.
        sharded: What the batch axis of a mesh splits too.
    """

    name: str
    strategy: Literal["plain", "one_device", "mirrored", "multi_worker_mirrored", "mesh"]
    num_processes: int = 1
    devices: int = 1
    stock: bool = False
    mesh: tuple[tuple[str, int], ...] = ()
    sharded: Literal["", "optimizer", "weights"] = ""

    @property
    def num_replicas(self) -> int:
        """Replicas over all processes; a mesh is one."""
        return 1 if self.mesh else self.num_processes * self.devices

    @property
    def tolerance(self) -> float:
        """Relative tolerance; a strategy of one device must not change a bit."""
        return 0.0 if self.strategy == "one_device" else RELATIVE_TOLERANCE

    def create_strategy(self) -> tf.distribute.Strategy | None:
        """Creates the strategy in this process; for several processes `TF_CONFIG` is already set.

        Returns:
            The strategy, or None for plain Keras.
        """
        if self.strategy == "plain":
            return None
        if self.stock:
            return self._create_stock_strategy()
        from tfdist import create_strategy

        if self.strategy == "one_device":
            return create_strategy("one_device")
        if self.strategy == "mirrored":
            return create_strategy("mirrored", devices=self.devices)
        if self.strategy == "mesh":
            return self._create_mesh()
        return create_strategy("multi_worker_mirrored", devices_per_worker=self.devices)

    def _create_mesh(self) -> tf.distribute.Strategy:
        from tfdist import create_strategy

        sharded = {f"shard_{self.sharded}": True} if self.sharded else {}
        strategy: Any = create_strategy("mesh", mesh=dict(self.mesh), **sharded)
        # Transformers by their own rules; of the rest whatever divides, so that every case has variables in pieces.
        automatic = strategy.rules.axes_of
        strategy.rules.axes_of = lambda path, shape: (
            automatic(path, shape)
            if re.search("attention|bert|transformer|_embedding", path)
            else split_last(shape, dict(self.mesh).get("model", 1))
        )
        strategy.check_model = lambda model: None
        return strategy

    def _create_stock_strategy(self) -> tf.distribute.Strategy:
        import tensorflow as tf

        if self.strategy == "multi_worker_mirrored":
            return tf.distribute.MultiWorkerMirroredStrategy()
        host = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            host, [tf.config.LogicalDeviceConfiguration()] * self.devices
        )
        return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(self.devices)])


def split_last(shape: Sequence[int], size: int) -> tuple[str | None, ...]:
    """Returns axes that split the last dimension of two or more over `model`, if `size` divides it."""
    fits = size > 1 and len(shape) > 1 and shape[-1] > 0 and shape[-1] % size == 0
    return (*(None for _ in shape[:-1]), "model") if fits else (None,) * len(shape)


REFERENCE = Layout("plain_keras", "plain")

LAYOUTS = {
    layout.name: layout
    for layout in (
        REFERENCE,
        Layout("stock_mirrored_2", "mirrored", devices=2, stock=True),
        Layout("stock_workers_2x1", "multi_worker_mirrored", num_processes=2, stock=True),
        Layout("one_device", "one_device"),
        Layout("mirrored_2", "mirrored", devices=2),
        Layout("mirrored_4", "mirrored", devices=4),
        Layout("workers_2x1", "multi_worker_mirrored", num_processes=2),
        Layout("workers_3x1", "multi_worker_mirrored", num_processes=3),
        Layout("workers_2x2", "multi_worker_mirrored", num_processes=2, devices=2),
        Layout("mesh_2x1", "mesh", mesh=(("batch", 2),)),
        Layout("mesh_1x2", "mesh", mesh=(("model", 2),)),
        Layout("mesh_1x4", "mesh", mesh=(("model", 4),)),
        Layout("mesh_2x2", "mesh", mesh=(("batch", 2), ("model", 2))),
        Layout("mesh_2x2_optimizer", "mesh", mesh=(("batch", 2), ("model", 2)), sharded="optimizer"),
        Layout("mesh_2x2_sharded", "mesh", mesh=(("batch", 2), ("model", 2)), sharded="weights"),
        Layout("mesh_workers_2x2", "mesh", num_processes=2, mesh=(("batch", 2), ("model", 2))),
    )
}
