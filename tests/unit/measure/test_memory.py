from pathlib import Path

import numpy as np
import tensorflow as tf

from tfdist.measure import memory
from tfdist.measure.memory import memory_gib


def test_memory_in_use_is_seen() -> None:
    before = memory_gib()["memory/process_gib"]
    block = np.ones(2**25)  # a quarter of a GiB
    assert memory_gib()["memory/process_gib"] - before > 0.2
    del block


def test_without_proc_the_peak_stands_in(monkeypatch) -> None:
    monkeypatch.setattr(memory, "_STATM", Path("/nowhere"))
    assert 0.01 < memory_gib()["memory/process_peak_gib"] < 1000


def test_accelerators(monkeypatch) -> None:
    gpus = [tf.config.LogicalDevice(name=f"/device:GPU:{index}", device_type="GPU") for index in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus if kind == "GPU" else [])

    def info(device: str) -> dict[str, int]:
        if device == "GPU:1":
            raise ValueError("no count")
        return {"current": 1, "peak": 2**31}

    monkeypatch.setattr(tf.config.experimental, "get_memory_info", info)
    scalars = memory_gib()
    assert scalars["memory/gpu_0_peak_gib"] == 2.0
    assert "memory/gpu_1_peak_gib" not in scalars
