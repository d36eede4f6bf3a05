"""The devices of this process: which there are, and logical CPU devices on demand."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfdist.errors import ClusterError, ConfigError


def make_logical_cpus(count: int) -> None:
    """Splits the CPU into `count` logical devices.

    Raises:
        ClusterError: TensorFlow already runs with fewer of them. Its first operation fixes their number.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    present = tf.config.get_logical_device_configuration(cpu)
    if present is not None and len(present) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) >= count:
            return
        raise ClusterError(
            f"{count} logical CPU devices were asked for, but TensorFlow already runs with "
            f"{len(tf.config.list_logical_devices('CPU'))}, and their number is fixed at its first operation. "
            "Call tfdist.create_strategy before any tensor, layer or dataset is made."
        ) from error


def local_devices(devices: int | Sequence[str] | None) -> list[str]:
    """Returns the names of the devices that `devices` means; makes logical CPU devices if they are needed.

    Args:
        devices: A list of names such as `"GPU:0"`, a count, or None for all GPUs, or the CPU if there is no GPU. A
            count takes GPUs if the host has any, and otherwise logical CPU devices.

    Raises:
        ConfigError: A count below one, a device named twice, or a device that this host does not have.
    """
    gpus = [f"GPU:{i}" for i in range(len(tf.config.list_physical_devices("GPU")))]
    if devices is None:
        return gpus or ["CPU:0"]
    if isinstance(devices, int):
        if devices < 1:
            raise ConfigError(
                f"devices={devices} is not possible: give a count of at least 1, or leave it out."
            )
        if not gpus:
            make_logical_cpus(devices)
            return [f"CPU:{i}" for i in range(devices)]
        if devices > len(gpus):
            raise ConfigError(
                f"devices={devices} GPUs were asked for, but this host has {len(gpus)}: {gpus}. "
                f"Ask for at most {len(gpus)}, or hide the GPUs (CUDA_VISIBLE_DEVICES=-1) to use logical CPU devices."
            )
        return gpus[:devices]
    return _named_devices(list(devices), gpus)


def _named_devices(names: list[str], gpus: list[str]) -> list[str]:
    short = [name.upper().rpartition("DEVICE:")[2].lstrip("/") for name in names]
    if not short or len(set(short)) != len(short):
        raise ConfigError(f"devices={names} is empty or names a device twice; each device holds one replica.")
    cpus = [name for name in short if name.startswith("CPU:")]
    if cpus and len(cpus) != len(short):
        raise ConfigError(f"devices={names} mixes CPU and GPU; give devices of one kind.")
    for name in short:
        kind, _, index = name.partition(":")
        if kind not in ("CPU", "GPU") or not index.isdigit():
            raise ConfigError(
                f"devices={names}: {name!r} is no device name; write for example 'GPU:0' or 'CPU:1'."
            )
        if kind == "GPU" and name not in gpus:
            raise ConfigError(
                f"devices={names}: this host has no {name}; it has {gpus or 'no GPU'}. "
                "See `tfdist doctor` for why a GPU may not be found."
            )
    if cpus:
        make_logical_cpus(1 + max(int(name.partition(":")[2]) for name in cpus))
    return short
