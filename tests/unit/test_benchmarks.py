"""The benchmarks run, and their ratios are computed as said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import interleaved, ratio, summary
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
    "name", ["overhead", "collectives", "mesh", "memory_limit", "models", "data_service", "start_up"]
)
def test_smoke_run_writes_results(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = ["-m", f"benchmarks.{name}", "--smoke", "--output", str(tmp_path)]
    done = run_python(command, tmp_path, limit_s=240, environment={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / f"{name}.json").read_text())
    assert results["environment"]["tensorflow"]


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
