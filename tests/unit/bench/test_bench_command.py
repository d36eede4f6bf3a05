"""`tfdist bench` measures on this machine, and prints a table that a terminal has room for."""

import argparse
import dataclasses
import json

from rich.console import Console

from tfdist.bench import quick
from tfdist.bench.comparisons import Outcome
from tfdist.cli import bench


def test_workers_need_two_cores():
    names = [one.one.name for one in quick.quick_comparisons([0], 3, brief=False)]
    assert "2 workers" not in names
    assert "2 workers" in [one.one.name for one in quick.quick_comparisons([0, 1], 3, brief=False)]


def test_table_fits_in_80_columns_and_names_failures():
    comparisons = quick.quick_comparisons([0, 1], 3, brief=False)
    found = {"median": 1.234, "low": 1.1, "high": 1.3}
    outcomes = [Outcome(one, found) for one in comparisons[:-1]]
    outcomes.append(Outcome(comparisons[-1], failed="ConfigError: no"))
    console = Console(width=80, record=True)
    console.print(bench.table_of(outcomes))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "1.10–1.30" in text and "≤ 1.02" in text and "≥ 0.90" in text and "failed" in text


def test_command_measures_and_writes(tmp_path, monkeypatch, capsys):
    (first, *_) = quick.quick_comparisons([0], 1, brief=True)
    few = dataclasses.replace(first, steps=2)
    monkeypatch.setattr(quick, "quick_comparisons", lambda *_: [few])
    path = tmp_path / "bench.json"
    assert bench.run(argparse.Namespace(quick=True, rounds=1, json=path)) == 0
    assert "plain Keras" in capsys.readouterr().out
    (result,) = json.loads(path.read_text())["results"]
    steps, ratio = result["step_s"], result["ratio"]["median"]
    assert steps["plain Keras"]["median"] > 0
    # With one round the ratio is that of the medians.
    assert abs(ratio - steps["one_device"]["median"] / steps["plain Keras"]["median"]) < 1e-9
