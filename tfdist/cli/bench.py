"""`tfdist bench`: what a training step costs here, beside plain Keras and beside one device."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tfdist.cli.tensorflow_start import start_up_lines_hidden

if TYPE_CHECKING:
    from rich.table import Table

    from tfdist.bench.comparisons import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--quick", action="store_true", help="small models and few rounds: a minute")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds of each comparison (default: 5, or 3)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results with versions and hardware"
    )
    parser.epilog = (
        "Two contestants a line train in turns, in processes of their own. The ratio is the median over the rounds, "
        "with its quartiles. Exit code 0, or 1 if a contestant failed; a missed aim is no failure."
    )


def run(args: argparse.Namespace) -> int:
    """Runs the comparisons one by one, and prints the table."""
    from rich.console import Console

    from tfdist.bench.comparisons import run as compare
    from tfdist.bench.machine import usable_cores
    from tfdist.bench.quick import quick_comparisons
    from tfdist.files import write_json

    console = Console(highlight=False)
    start = time.monotonic()
    rounds = args.rounds or (3 if args.quick else 5)
    outcomes = []
    with console.status("starts") as status:
        for comparison in quick_comparisons(usable_cores(), rounds, args.quick):
            outcomes.append(compare(comparison, status.update))
    console.print(table_of(outcomes))
    for outcome in outcomes:
        if outcome.failed:
            console.print(f"{outcome.comparison.one.name}: {outcome.failed}", markup=False, soft_wrap=True)
    console.print(f"{len(usable_cores())} core(s), {time.monotonic() - start:.0f} s")
    if args.json is not None:
        with start_up_lines_hidden():
            from tfdist.bench.machine import environment

            found = {"environment": environment(), "results": [dataclasses.asdict(one) for one in outcomes]}
        write_json(args.json, json.loads(json.dumps(found)))
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def table_of(outcomes: list[Outcome]) -> Table:
    """Returns a line for each comparison, at most 100 columns wide."""
    from rich.table import Table

    table = Table(title="tfdist bench: ratios of medians", title_justify="left")
    for name in ("what", "this", "beside"):
        table.add_column(name)
    for name in ("ratio", "quartiles", "aim"):
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        one = outcome.comparison
        aim = "–" if one.aim is None else f"{'≥' if one.min_rate else '≤'} {one.aim:.2f}"
        found = outcome.ratio
        cells = (
            ["failed", "–"]
            if found is None
            else [f"{found['median']:.2f}", f"{found['low']:.2f}–{found['high']:.2f}"]
        )
        style = {True: "green", False: "yellow", None: None}[outcome.reached]
        table.add_row(one.title, one.one.name, one.to.name, *cells, aim, style=style)
    return table
