"""The benchmarks run, and their ratios are computed as said."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpus import figures
from benchmarks.harness import interleaved, ratio, summary
from benchmarks.hosts.link import why_not_permitted
from benchmarks.hosts.proxy import Proxy, Throttle
from benchmarks.peers import measured
from benchmarks.self_check import SMOKE_CASES
from tfdist.parity.processes import run_python

ROOT = Path(__file__).parents[2]


def test_contestants_take_turns_in_alternating_order() -> None:
    calls = []

    def contestant(name: str, seconds: float):
        return lambda: calls.append(name) or [seconds]

    samples = interleaved({"a": contestant("a", 2.0), "b": contestant("b", 1.0)}, rounds=2, warmup=1)
    assert "".join(calls) == "baabba"
    assert samples == {"a": [[2.0], [2.0]], "b": [[1.0], [1.0]]}
    assert ratio(samples, "a", "b")["median"] == 2.0


def test_summary_is_the_median_with_quartiles() -> None:
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize(
    "name",
    ["overhead", "collectives", "mesh", "memory_limit", "models", "scripts", "data_service", "start_up"],
)
def test_smoke_run_writes_results(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke(name, tmp_path, monkeypatch)


def smoke(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str, file: str = "") -> Any:
    """Runs a benchmark with `--smoke`; returns what it has written."""
    monkeypatch.chdir(ROOT)
    command = ["-m", f"benchmarks.{name}", "--smoke", "--output", str(folder), *flags]
    done = run_python(command, folder, limit_s=280, environment={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / f"{file or name}.json").read_text())
    assert results["environment"]["tensorflow"]
    return results


@pytest.mark.slow
@pytest.mark.wide
def test_fine_tuning_beside_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few lengths, so that the few steps have some that were trained before.
    flags = ["--bucket-step", "16", "--peer-python", "hf=/no/such/python", "--contestants"]
    flags += ["tfdist:float32", "keras-tf:float32", "hf:float32"]
    found = smoke("finetune", tmp_path, monkeypatch, *flags, file="finetune_text")
    assert found["absent"] == {"hf:float32": "not installed: torch, transformers, accelerate"}
    ours, theirs = (found["speed"]["contestants"][name] for name in ("tfdist:float32", "keras-tf:float32"))
    assert ours["tokens_per_example"] == theirs["tokens_per_example"]
    assert found["speed"]["ratios"]["tfdist:float32"]["best_peer"] == "keras-tf:float32"
    assert set(found["accuracy"]) == {"tfdist:float32", "keras-tf:float32"}


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.processes
@pytest.mark.busy(2)
@pytest.mark.parametrize("link", ["auto", "proxy"])
def test_two_hosts_on_a_slow_network(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = smoke("network", tmp_path, monkeypatch, "--link", link, "--part", "speed", file="network")[
        "speed"
    ]
    one = found["contestants"]["none"]
    # A host sends at least half of the gradients, and not much more than all of them.
    assert 2 * one["parameters"] < one["bytes_per_step"] < 8 * one["parameters"] + 50_000
    expected = "proxy" if link == "proxy" or why_not_permitted() else "namespaces"
    assert expected in found["link"]


@pytest.mark.slow
@pytest.mark.wide
def test_gpu_benchmark_runs_on_cpu_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = smoke("gpu", tmp_path, monkeypatch, "--only", "mirrored")
    one = found["contestants"]["mirrored, float32"]
    assert one["rows"] == 8 and one["mfu"] == "unknown"
    assert any(name.startswith("CollectiveReduce") for name in one["collectives"])
    assert found["parity"]["mirrored"]["passed"]
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert len(lines) == 3 and "2 logical CPU device(s)" in lines[2] and "mirrored equal" in lines[2]


def test_gpu_budget_is_kept() -> None:
    budget = gpu.Budget(0.0)
    entered = gpu.contestants(2)
    assert set(gpu.parity(entered, budget)) == {"mirrored", "mesh"}
    assert all(one == {"skipped": "time budget"} for one in gpu.parity(entered, budget).values())
    assert gpu.Budget(100.0, longest=50.0).fits() and not gpu.Budget(100.0, longest=101.0).fits()


def test_flops_by_formula_and_peaks_by_name() -> None:
    # One layer of width 16, inner 32, on 8 tokens: 4 * 16 * 16 + 2 * 16 * 32 weights, 3 rows.
    assert figures.flops_per_step("tiny", 3) == 3 * 8 * (6 * 2048 + 12 * 16 * 8)
    assert figures.peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989.5e12
    assert figures.peak_flops("NVIDIA L4", "tf32") == 60e12
    assert figures.peak_flops("Some new card", "bf16") is None
    half = {"devices": ["NVIDIA A100-SXM4-40GB"], "step_s": {"median": 1.0}}
    assert figures.mfu(312e12, half, "bf16", 2)["mfu"] == 0.5
    assert figures.nccl_version("x\nNCCL version 2.27.3+cuda12.8\n") == "2.27.3+cuda12.8"


def steps(*seconds: float, length: int = 16) -> list[list[float]]:
    return [[32, length, second, second] for second in seconds]


def test_first_steps_and_first_shapes_are_told_apart() -> None:
    turns = [steps(9, 9, 9, 1), [*steps(5, length=32), *steps(2, length=32), *steps(3)]]
    assert measured.steady(turns, compiles_shapes=True) == [[False] * 3 + [True], [False, True, True]]
    assert measured.steady(turns, compiles_shapes=False)[1] == [True, True, True]
    found = measured.summarized(turns, compiles_shapes=True)
    # Steps of 16 tokens count with their median of 2 s, as those of 32 tokens.
    assert found["examples_per_s"] == 32 / 2
    assert found["first_s"] == 3 * 7 + 3


def test_ratios_are_of_the_same_batches() -> None:
    ours, fast, slow = ([steps(9, 9, 9), steps(*seconds)] for seconds in ((1, 1), (2, 2), (4, 4)))
    found = measured.beside(
        {"tfdist:float32": (ours, True), "hf:bfloat16": (fast, False), "keras-tf:float32": (slow, True)}
    )["tfdist:float32"]
    assert found["peers"]["hf:bfloat16"]["median"] == 2.0 and found["best_peer"] == "hf:bfloat16"
    assert found["best_peer_in_its_precision"] == "keras-tf:float32"
    other = [[[16, 16, 1.0, 1.0]] * 3, steps(1, 1)]
    with pytest.raises(ValueError, match="same batches"):
        measured.paired((ours, True), (other, True))


def test_a_proxy_counts_what_passes(tmp_path: Path) -> None:
    there, back = (Throttle(1000, tmp_path / name) for name in ("there", "back"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy(server.getsockname()[1], there, back)
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            connection, _ = server.accept()
            with connection:
                client.sendall(b"x" * 100_000)
                assert len(connection.recv(100_000, socket.MSG_WAITALL)) == 100_000
                connection.sendall(b"y" * 300)
                assert client.recv(300, socket.MSG_WAITALL) == b"y" * 300
        proxy.close()
    assert (int(there.counter.read_text()), int(back.counter.read_text())) == (100_000, 300)


@pytest.mark.slow
@pytest.mark.wide
def test_cases_that_once_raised_a_false_alarm_raise_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    asked = ["alarms", "--smoke", "--topologies", "mirrored_2", "--output", str(tmp_path)]
    command = ["-m", "benchmarks.self_check", *asked]
    done = run_python(command, tmp_path, limit_s=400, environment={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "self_check_alarms.json").read_text())["results"]["mirrored_2"]
    assert found["cases"] >= len(SMOKE_CASES)
    assert not found["alarms"]
