"""The parity table, for the terminal and as pages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rich.markup import escape
from rich.table import Table

from tfdist.numerics import BFLOAT16_TOLERANCE, FLOAT16_TOLERANCE, RELATIVE_TOLERANCE
from tfdist.parity.registry import FAMILIES, MESHES, ONE_DEVICE, WIDE, Case
from tfdist.parity.run.suite import Cell
from tfdist.parity.topologies import TOPOLOGIES

REPLICA_COLUMNS = (*(name for name, topology in TOPOLOGIES.items() if topology.stock), ONE_DEVICE, *WIDE)
MESH_COLUMNS = MESHES
COLUMNS = (*REPLICA_COLUMNS, *MESH_COLUMNS)

Cells = Mapping[tuple[str, str], Cell]

_INTRODUCTION = f"""# Parity

<!-- Written by `python -m tfdist.parity --write docs`; do not edit. -->

Each case is one small function that trains, evaluates or predicts. It runs unchanged in plain Keras on one
device, and under every topology below. A cell is the largest relative difference of any weight, optimizer slot,
loss, metric or prediction from plain Keras: float32, tolerance {RELATIVE_TOLERANCE:.0e}, 0 for `one_device`; and twice
the spacing of the numbers where products are in half precision, {BFLOAT16_TOLERANCE:.0e} for bfloat16 and
{FLOAT16_TOLERANCE:.0e} for float16. `FAIL`: out of tolerance, or rows, counts or replicas that do not agree. `error`,
`hang`, `crash`: the run did not end. `–`: not measured; other cases of the family are. `make test` and `make wide`
run again each case under some topologies and each family under all, and hold the cells against this page.
`one_device` is held against plain Keras by the quick cases
only, since under it TensorFlow's default strategy is in force and no patch acts. The last batch of an epoch is smaller
than the others wherever a title says "uneven".

Topologies: `stock_*` are TensorFlow's own strategies; `mirrored_N` has N devices; `workers_PxD` has P processes
with D devices each, on loopback. `mesh_BxM` splits batches over B devices and the model over M by
`layout_map="auto"`: transformers by heads and columns, of any other model each matrix by what divides;
`mesh_2x2_optimizer` splits the optimizer's state over the batch axis too (`shard_optimizer`), `mesh_2x2_sharded`
weights and gradients (`shard_weights`), and `mesh_workers_2x2` has two of the four devices in each of two processes.
Meshes other than `mesh_2x2` run without TensorFlow's optimizer of graphs, which takes a third of their time.
CPU devices throughout."""

_MESH_INTRODUCTION = f"""# Layers and optimizers on a mesh

<!-- Written by `python -m tfdist.parity --write docs`; do not edit. -->

The rows of [parity.md](../parity.md) that are about one layer or one optimizer: the largest relative difference of any
weight, loss or prediction from plain Keras on one device, float32, tolerance {RELATIVE_TOLERANCE:.0e}. Each layer
stands between two dense ones, and whatever the mesh divides of their variables is split. Several layers are branches
of one model; the row of such a layer is about the weights of its branch. What is not listed has not been tried."""

_SUBJECTS = {
    "Layers": ("layers", "recurrent"),
    "Layers that draw random numbers": ("randomness",),
    "Whole models": ("transformers",),
    "Optimizers": ("optimizers",),
}


# A cell that nobody has measured. No test runs it; those of the same family on this topology are measured.
UNMEASURED = "–"


def cell_text(cell: Cell | None) -> str:
    """Returns the text of a cell: the measured difference, or how the run ended."""
    if cell is None:
        return ""
    if cell.outcome in ("ok", "FAIL"):
        figure = "0" if cell.difference == 0 else f"{cell.difference:.0e}"
        return figure if cell.passed else f"FAIL {figure}" if cell.difference > 0 else "FAIL"
    return cell.outcome


def agrees(cell: Cell, text: str) -> bool:
    """Returns whether a new cell is what a page says, up to rounding and the order of magnitude of a failure."""
    passed, figure = not re.match("[A-Za-z]", text), re.search(r"[\d.e+-]+$|inf$", text)
    if cell.outcome != "FAIL" or passed:
        return cell.passed == passed and (passed or cell.outcome == text)
    written = float(figure[0]) if figure and text.startswith("FAIL ") else 0.0
    if not 0 < written < math.inf or not 0 < cell.difference < math.inf:
        return text.startswith("FAIL")
    return abs(math.log10(cell.difference / written)) <= 1


def to_markdown(cells: Cells, cases: Mapping[str, Case]) -> str:
    """Returns the page: a section for each family, a row for each case, and a table of its own for meshes."""
    lines = [_INTRODUCTION]
    for family in dict.fromkeys(case.family for case in cases.values()):
        lines += ["", f"## {FAMILIES[family]}"]
        members = [case for case in cases.values() if case.family == family]
        lines += _rows(cells, members, REPLICA_COLUMNS)
        lines += _rows(cells, [case for case in members if is_on_meshes(case)], MESH_COLUMNS)
    return "\n".join(lines) + "\n"


def is_on_meshes(case: Case) -> bool:
    """Returns whether the case has a row in the table of meshes."""
    return not set(MESH_COLUMNS).isdisjoint(case.topologies)


def to_mesh_page(cells: Cells, cases: Mapping[str, Case]) -> str:
    """Returns the page of layers and optimizers on meshes; a case of several branches has a row for each."""
    lines = [_MESH_INTRODUCTION]
    for subject, families in _SUBJECTS.items():
        chosen = [case for case in cases.values() if case.family in families and is_on_meshes(case)]
        lines += ["", f"## {subject}", *_rows(*_by_branch(cells, chosen), MESH_COLUMNS)]
    return "\n".join(lines) + "\n"


_BRANCH = re.compile(r"weights/([A-Za-z]\w*)/\d+ ")


def _by_branch(cells: Cells, cases: Sequence[Case]) -> tuple[Cells, list[Case]]:
    """Splits the cells of cases whose weights are named `weights/BRANCH/NUMBER ...` into one for each branch."""
    parts: dict[tuple[str, str], Cell] = {}
    rows = []
    for case in cases:
        of_case = {
            column: cells[case.name, column] for column in MESH_COLUMNS if (case.name, column) in cells
        }
        found = [_BRANCH.match(name) for cell in of_case.values() for name in cell.differences]
        branches = list(dict.fromkeys(match[1] for match in found if match))
        for branch in branches or [""]:
            row = replace(case, name=branch, title=f"in `{case.name}`") if branch else case
            rows.append(row)
            for column, cell in of_case.items():
                own = [value for name, value in cell.differences.items() if f"/{branch}/" in name]
                single = replace(cell, difference=max(own, default=0.0)) if branch else cell
                parts[row.name, column] = single
    return parts, rows


def _rows(cells: Cells, cases: Sequence[Case], columns: Sequence[str]) -> Iterator[str]:
    if not cases:
        return
    yield from ("", "| Case | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|")
    for case in cases:
        texts = [
            UNMEASURED
            if column in case.topologies and (case.name, column) not in cells
            else cell_text(cells.get((case.name, column)))
            for column in columns
        ]
        yield f"| `{case.name}`: {case.title.rstrip('.')} | " + " | ".join(texts) + " |"


def to_table(cells: Cells, cases: Mapping[str, Case], columns: Sequence[str]) -> Table:
    """Returns the table for the terminal, in which failing cells are red."""
    table = Table("family", "case", *columns, show_lines=False)
    for case in cases.values():
        row = []
        for column in columns:
            cell = cells.get((case.name, column))
            colour = "white" if cell is None else "green" if cell.passed else "red"
            row.append(f"[{colour}]{cell_text(cell)}[/]")
        table.add_row(case.family, escape(case.name), *row)
    return table
