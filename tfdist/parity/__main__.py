"""Measures parity and prints the table: `python -m tfdist.parity --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tfdist.parity.registry import Case, all_cases
from tfdist.parity.suite import read_cells, run_layouts
from tfdist.parity.table import COLUMNS, to_markdown, to_mesh_page, to_table
from tfdist.parity.topologies import LAYOUTS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs layouts, prints the table and why cells fail; the exit code is 1 when a tfdist cell fails."""
    parser = argparse.ArgumentParser(prog="python -m tfdist.parity", description=__doc__)
    parser.add_argument("--layouts", nargs="*", choices=COLUMNS, default=list(COLUMNS), metavar="LAYOUT")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="cases, or beginnings of their names")
    parser.add_argument("--oracles", nargs="+", metavar="O", help="only the cases of these oracles")
    parser.add_argument("--quick", action="store_true", help="only the quick cases")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument(
        "--folder", type=Path, help="where logs and results go; a new temporary folder if absent"
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        choices=LAYOUTS,
        default=[],
        metavar="LAYOUT",
        help="layouts of which the results in --folder stand; only missing cases are run "
        "(plain_keras is the reference)",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="DOCS",
        help="write parity.md and parallelisms/mesh_layers.md in this folder, from all that lies in --folder",
    )
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    cases = {name: case for name, case in all_cases().items() if _wanted(case, arguments)}
    if arguments.list:
        for case in cases.values():
            console.print(f"{case.oracle:4} {case.name:34} {case.title}", markup=False)
        return 0
    if not cases:
        parser.error("no case has such a name; see --list")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="parity-"))
    console.print(f"logs and results: {folder}")
    cells = run_layouts(
        arguments.layouts,
        folder,
        cases=cases,
        keep=arguments.keep,
        report=lambda line: console.print(line, markup=False),
    )
    console.print(to_table(cells, cases, arguments.layouts))
    failing = {key: cell for key, cell in cells.items() if not cell.passed and not LAYOUTS[key[1]].stock}
    for (name, layout), cell in failing.items():
        console.print(f"{layout} {name}: {cell.outcome}: {cell.message[:400]}", markup=False)
    if arguments.write:
        known = read_cells(folder, COLUMNS)
        (arguments.write / "parity.md").write_text(to_markdown(known, all_cases()))
        (arguments.write / "parallelisms" / "mesh_layers.md").write_text(to_mesh_page(known, all_cases()))
    return 1 if failing else 0


def _wanted(case: Case, arguments: argparse.Namespace) -> bool:
    if arguments.oracles and case.oracle not in arguments.oracles:
        return False
    if arguments.cases and not any(case.name.startswith(start) for start in arguments.cases):
        return False
    return case.quick or not arguments.quick


if __name__ == "__main__":
    sys.exit(main())
