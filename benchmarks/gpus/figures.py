"""FLOPs of a step by formula, the peaks of known GPUs, and the row of the table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from benchmarks.gpus.models import CONFIGS, LENGTH

# Part of the device's name -> dense peak in TFLOP/s of (float32 outside of tensor cores, TF32, bfloat16), without
# sparsity, from NVIDIA's data sheets of the products: H100 and H200 SXM, H100 PCIe, A100, L40S, L4, A10, V100, T4.
# Where a card has no such unit, there is None. The first that fits counts.
PEAKS: dict[str, tuple[float | None, float | None, float | None]] = {
    "H200": (67.0, 494.5, 989.5),
    "H100 PCIe": (51.0, 378.0, 756.0),
    "H100": (67.0, 494.5, 989.5),
    "A100": (19.5, 156.0, 312.0),
    "L40S": (91.6, 183.0, 362.0),
    "L4": (30.3, 60.0, 121.0),
    "A10": (31.2, 62.5, 125.0),
    "V100": (15.7, None, None),
    "T4": (8.1, None, None),
}


def flops_per_step(model: str, rows: int) -> float:
    """Returns the floating point operations of a training step, by formula.

    Two for each weight of the products and token, two thirds more for the backward pass (6 N in all), and 12 for each
    layer, width and pair of tokens in the attention (Chowdhery et al., "PaLM", 2022, appendix B). Tables that are only
    looked up, norms, softmax and the optimizer do not count.
    """
    config, length = CONFIGS[model], LENGTH[model]
    width = config.hidden_size
    products = config.num_hidden_layers * (4 * width * width + 2 * width * config.intermediate_size)
    attention = 12 * config.num_hidden_layers * width * length
    return float(rows * length * (6 * products + attention))


def peak_flops(device: str, precision: str) -> float | None:
    """Returns the peak FLOP/s of a device by its name, None if it is not known."""
    column = {"float32": 0, "tf32": 1, "bf16": 2}[precision]
    found = next((peaks for part, peaks in PEAKS.items() if re.search(rf"\b{part}\b", device)), None)
    value = found[column] if found else None
    return None if value is None else value * 1e12


def mfu(flops: float, one: Mapping[str, Any], precision: str, num_devices: int) -> dict[str, Any]:
    """Returns the share of the devices' peak that the model's own FLOPs are, or `"unknown"`, and the peak."""
    devices = one.get("devices") or ["unknown"]
    peak = peak_flops(devices[0], precision)
    share = "unknown" if peak is None else flops / one["step_s"]["median"] / (peak * num_devices)
    return {"mfu": share, "peak_flops": peak or "unknown"}


def nccl_version(log: str) -> str | None:
    """Returns the version that NCCL has written when it was started (NCCL_DEBUG=VERSION), None if it was not."""
    found = re.search(r"NCCL version (\S+)", log)
    return found[1] if found else None


def row(results: Mapping[str, Any]) -> str:
    """Returns the results as one row in Markdown, below its header."""
    environment = results["environment"]
    gpus = environment["gpus"]
    device = f"{len(gpus)} × {gpus[0]}" if gpus else f"{results['devices']} logical CPU device(s)"
    names, cells = ["devices", "TensorFlow", "parity"], [device, environment["tensorflow"], _parity(results)]
    for name, one in results["contestants"].items():
        names.append(f"{name}: ms, examples/s, MFU, GiB, NCCL")
        if "step_s" not in one:
            cells.append(
                f"skipped: {one['skipped']}" if "skipped" in one else f"failed: {one['failed'][:80]}"
            )
            continue
        share = one["mfu"] if isinstance(one["mfu"], str) else f"{100 * one['mfu']:.0f} %"
        memory = f"{max(one['peak_bytes']) / 2**30:.1f}" if one["peak_bytes"] else "–"
        figures = f"{1000 * one['step_s']['median']:.1f}, {one['examples_per_s']:.0f}, {share}, {memory}"
        cells.append(f"{figures}, {one['nccl'] or '–'}")
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), cells))


def _parity(results: Mapping[str, Any]) -> str:
    told = []
    for name, one in results["parity"].items():
        if "passed" in one:
            worst = max(one["differences"].values())
            told.append(f"{name} {'equal' if one['passed'] else 'DIFFERS'} ({worst:.0e})")
        else:
            told.append(f"{name} not run")
    return ", ".join(told)
