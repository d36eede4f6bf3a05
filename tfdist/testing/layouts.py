"""The layouts that the parity cases run on: which strategy, how many processes, how many devices in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tfdist.testing.numerics import RELATIVE_TOLERANCE

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
    """

    name: str
    strategy: Literal["plain", "one_device", "mirrored", "multi_worker_mirrored"]
    num_processes: int = 1
    devices: int = 1
    stock: bool = False

    @property
    def num_replicas(self) -> int:
        """Replicas over all processes."""
        return self.num_processes * self.devices

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
        return create_strategy("multi_worker_mirrored", devices_per_worker=self.devices)

    def _create_stock_strategy(self) -> tf.distribute.Strategy:
        import tensorflow as tf

        if self.strategy == "multi_worker_mirrored":
            return tf.distribute.MultiWorkerMirroredStrategy()
        host = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            host, [tf.config.LogicalDeviceConfiguration()] * self.devices
        )
        return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(self.devices)])


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
    )
}
