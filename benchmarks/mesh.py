"""The mesh strategy on four devices: bytes of each device, collectives of a step, step time beside `mirrored`.

`python -m benchmarks.mesh [--smoke]`. Four GPUs where there are four, else logical CPU devices.
"""

from __future__ import annotations

from typing import Any

import keras

import tfdist
from benchmarks import harness
from benchmarks.overhead import contestant
from benchmarks.workloads import Workload, workloads
from tfdist.parity.inspection import MeshCollective, mesh_collectives

# Name -> options of the strategy.
SHARDINGS: dict[str, dict[str, Any]] = {
    "data 4x1": {"mesh": {"batch": 4}},
    "shard_optimizer 4x1": {"mesh": {"batch": 4}, "shard_optimizer": True},
    "shard_weights 4x1": {"mesh": {"batch": 4}, "shard_weights": True},
    "tensor 1x4": {"mesh": {"batch": 1, "model": 4}},
    "tensor 2x2": {"mesh": {"batch": 2, "model": 2}},
    "shard_weights 2x2": {"mesh": {"batch": 2, "model": 2}, "shard_weights": True},
}
TIME_AIM = 1.10


def collectives(model: keras.Model, workload: Workload) -> dict[str, dict[str, int]]:
    """Returns the number and the bytes a device gives of each kind of collective in one training step.

    Along `batch` there are those of the gradients, for each variable; along `model`, those forward and backward.
    """
    inputs, labels = workload.rows(1)
    found: dict[str, dict[str, int]] = {}
    for one in mesh_collectives(
        lambda: model.fit(inputs, labels, batch_size=workload.global_batch_size, verbose=0)
    ):
        kind = found.setdefault(_kind(one), {"number": 0, "bytes": 0})
        kind["number"] += 1
        kind["bytes"] += one.num_bytes
    return found


def _kind(one: MeshCollective) -> str:
    """Returns what a collective is for, and which kind DTensor meant before CPUs made it an all-reduce."""
    meant = one.name.rpartition("/")[2].removeprefix("DTensor").partition("Op_")[0]
    return f"{meant}, {one.part}"


def placed(workload: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the bytes of one device, weights and optimizer, over those of the whole, and the step's collectives."""
    with tfdist.create_strategy("mesh", **options).scope():
        model = workload.build()
    found: dict[str, Any] = {"collectives": collectives(model, workload)}
    variables = tfdist.sharding_report(model).variables
    num_weights = len(model.variables)
    for part, members in {"weights": variables[:num_weights], "optimizer": variables[num_weights:]}.items():
        device_bytes = sum(max(variable.device_bytes) for variable in members)
        found[part] = {
            "device_bytes": device_bytes,
            "share": device_bytes / sum(variable.num_bytes for variable in members),
        }
    return found


def measure(smoke: bool) -> dict[str, Any]:
    """Runs everything: times of both workloads, before anything else fills the process; bytes and collectives."""
    mirrored = tfdist.create_strategy("mirrored", devices=4)
    bert = Workload("bert", 4, smoke) if smoke else workloads(smoke)[-1]
    results: dict[str, Any] = {"device": mirrored.extended.worker_devices[0], "shardings": {}, "ratios": {}}
    mesh = tfdist.create_strategy("mesh", mesh={"batch": 4})
    for workload in workloads(smoke):
        num_steps, rounds = (4, 2) if smoke else {"mlp": (60, 9), "bert": (6, 7)}[workload.name]
        samples = harness.interleaved(
            {
                name: contestant(workload, strategy, num_steps, patched=True)
                for name, strategy in {"mirrored": mirrored, "mesh": mesh}.items()
            },
            rounds=rounds,
        )
        ratio = {**harness.ratio(samples, "mesh", "mirrored"), "aim": TIME_AIM, "rounds": rounds}
        results["ratios"][f"{workload.name} mesh 4x1 / mirrored of 4"] = ratio
        print(workload.name, ratio, flush=True)
    for name, options in list(SHARDINGS.items())[-1 if smoke else 0 :]:
        results["shardings"][name] = placed(bert, options)
        print(name, results["shardings"][name], flush=True)
    return results


def main() -> None:
    arguments = harness.parse_arguments(__doc__.splitlines()[0])
    print(harness.write(arguments.output, "mesh", measure(arguments.smoke)))


if __name__ == "__main__":
    main()
