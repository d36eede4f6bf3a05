"""`one_device`: plain Keras, on the device that TensorFlow chooses or on one that is named."""

from __future__ import annotations

import tensorflow as tf

from tfdist.devices import local_devices
from tfdist.errors import ClusterError


def one_device(device: str | None = None) -> tf.distribute.Strategy:
    """Returns TensorFlow's default strategy, under which Keras sees no strategy at all.

    So compiled steps keep XLA, the results are those of plain Keras bit for bit, and so is the speed.

    Args:
        device: A name such as `"GPU:1"`; the process then sees no other GPU. None leaves the choice to TensorFlow.

    Raises:
        ClusterError: A device is named but TensorFlow already runs.
        ConfigError: This host has no such device.
    """
    if device is not None:
        _hide_other_gpus(local_devices([device])[0])
    return tf.distribute.get_strategy()


def _hide_other_gpus(name: str) -> None:
    kind, _, index = name.partition(":")
    gpus = tf.config.list_physical_devices("GPU")
    try:
        tf.config.set_visible_devices([gpus[int(index)]] if kind == "GPU" else [], "GPU")
    except RuntimeError as error:
        raise ClusterError(
            f"one_device(device={name!r}) must hide the other devices, but TensorFlow already runs. "
            "Call tfdist.create_strategy before any tensor, layer or dataset is made."
        ) from error
