"""Devices that are asked for: what they become, and what is refused."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tfdist.devices import local_devices
from tfdist.errors import ConfigError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tf.config.list_physical_devices
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: [] if kind == "GPU" else listed(kind)
    )


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tf.config.list_physical_devices
    gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{index}", "GPU") for index in range(2)]
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: gpus if kind == "GPU" else listed(kind)
    )


def test_a_count_makes_logical_cpus_where_there_is_no_gpu(no_gpu: None) -> None:
    assert local_devices(3) == ["CPU:0", "CPU:1", "CPU:2"]
    assert local_devices(None) == ["CPU:0"]


def test_gpus_are_taken_where_there_are_any(two_gpus: None) -> None:
    assert local_devices(None) == ["GPU:0", "GPU:1"]
    assert local_devices(1) == ["GPU:0"]


def test_names_are_shortened(no_gpu: None) -> None:
    assert local_devices(["/device:CPU:0", "cpu:1"]) == ["CPU:0", "CPU:1"]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (0, "give a count of at least 1"),
        ([], "is empty or names a device twice"),
        (["CPU:0", "cpu:0"], "names a device twice"),
        (["CPU:0", "GPU:0"], "mixes CPU and GPU"),
        (["disk"], "is no device name"),
        (["GPU:0"], "this host has no GPU:0; it has no GPU"),
    ],
)
def test_impossible_devices_are_refused(no_gpu: None, devices: int | list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        local_devices(devices)


def test_more_gpus_than_there_are_is_refused(two_gpus: None) -> None:
    with pytest.raises(ConfigError, match="devices=3 GPUs were asked for, but this host has 2.*at most 2"):
        local_devices(3)
    with pytest.raises(ConfigError, match="no GPU:2; it has .*GPU:1"):
        local_devices(["GPU:2"])
