"""Measures parity and prints the table: `python -m tfdist.parity --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tfdist.parity.registry import FAMILIES, Case, all_cases
from tfdist.parity.run.suite import read_cells, run_topologies
from tfdist.parity.table import to_markdown, to_mesh_page, to_table
from tfdist.parity.topologies import REFERENCE, TOPOLOGIES, import_module


def main(argv: Sequence[str] | None = None) -> int:
    """Runs topologies, prints the table and why cells fail; the exit code is 1 when a tfdist cell fails."""
    arguments = _parse(argv)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    cases = {name: case for name, case in all_cases().items() if _wanted(case, arguments)}
    if not cases:
        console.print("No case has such a name; see --list.")
        return 2
    if arguments.list:
        for case in cases.values():
            console.print(f"{case.family:14} {case.name:34} {case.title}", markup=False)
        return 0
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="parity-"))
    console.print(f"logs and results: {folder}")
    cells = run_topologies(
        arguments.topologies,
        folder,
        cases=cases,
        keep=arguments.keep,
        imports=arguments.imports,
        jobs=arguments.jobs,
        report=lambda line: console.print(line, markup=False),
    )
    console.print(to_table(cells, cases, arguments.topologies))
    failing = {key: cell for key, cell in cells.items() if not cell.passed and not TOPOLOGIES[key[1]].stock}
    for (name, topology), cell in failing.items():
        console.print(f"{topology} {name}: {cell.outcome}: {cell.message[:400]}", markup=False)
    if arguments.write:
        known = read_cells(folder, TOPOLOGIES)
        (arguments.write / "parity.md").write_text(to_markdown(known, all_cases()))
        (arguments.write / "parallelisms" / "mesh_layers.md").write_text(to_mesh_page(known, all_cases()))
    return 1 if failing else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module, or a file, that registers a strategy and a topology",
    )
    for module in first.parse_known_args(argv)[0].imports:
        import_module(module)
    columns = [name for name in TOPOLOGIES if name != REFERENCE.name]
    parser = argparse.ArgumentParser(prog="python -m tfdist.parity", description=__doc__, parents=[first])
    parser.add_argument("--topologies", nargs="*", choices=columns, default=columns, metavar="TOPOLOGY")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="cases, or beginnings of their names")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, metavar="FAMILY", help="only these")
    parser.add_argument("--quick", action="store_true", help="only the quick cases")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--jobs", type=int, default=2, help="busy processes at a time (default: 2)")
    parser.add_argument(
        "--folder", type=Path, help="where logs and results go; a new temporary folder if absent"
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        choices=TOPOLOGIES,
        default=[],
        metavar="TOPOLOGY",
        help="topologies of which the results in --folder stand; only missing cases are run "
        "(plain_keras is the reference)",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="DOCS",
        help="write parity.md and parallelisms/mesh_layers.md in this folder, from all that lies in --folder",
    )
    return parser.parse_args(argv)


def _wanted(case: Case, arguments: argparse.Namespace) -> bool:
    if arguments.families and case.family not in arguments.families:
        return False
    if arguments.cases and not any(case.name.startswith(start) for start in arguments.cases):
        return False
    return case.quick or not arguments.quick


if __name__ == "__main__":
    sys.exit(main())
