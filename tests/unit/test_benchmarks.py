"""The benchmarks run, and their ratios are computed as said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import interleaved, ratio, summary

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
@pytest.mark.parametrize("name", ["overhead", "collectives", "mesh", "memory_limit"])
def test_smoke_run_writes_results(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--output", str(tmp_path)]
    subprocess.run(
        command, cwd=ROOT, check=True, timeout=240, env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    )
    results = json.loads((tmp_path / f"{name}.json").read_text())
    assert results["environment"]["tensorflow"]
