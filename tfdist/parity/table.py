"""The parity table, for the terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from tfdist.parity.comparison import RELATIVE_TOLERANCE
from tfdist.parity.registry import Case
from tfdist.parity.suite import Cell
from tfdist.parity.topologies import LAYOUTS, REFERENCE

COLUMNS = tuple(name for name in LAYOUTS if name != REFERENCE.name)

ORACLES = {
    "O1": "One step on a global batch is one step on one device",
    "O2": "Uneven batches and empty replicas",
    "O3": "Weights, masks and reductions of losses",
    "O4": "Losses and steps that the user wrote",
    "O5": "Regularisers, weight decay and constraints count once",
    "O6": "Clipping acts on the global gradient",
    "O7": "Gradient accumulation",
    "O8": "Loss scaling",
    "O9": "Exponential moving average of the weights",
    "O10": "All replicas hold the same values",
    "O11": "Batch normalization",
    "O12": "Randomness",
    "O13": "Random numbers by row",
    "O14": "Metrics from summed state",
    "O15": "Reported loss",
    "O16": "Every row once",
    "O17": "Predictions: order and count",
    "O18": "Evaluation",
    "O19": "Several steps in one execution",
    "O20": "Compilation and traces",
    "O21": "Checkpoints",
    "O22": "State to resume from",
    "O24": "Callbacks decide together",
    "O27": "Collectives in a step",
    "O28": "Keras's global state inside replicas",
    "O29": "One device under a strategy",
}


_INTRODUCTION = f"""# Parity

<!-- Written by `python -m tfdist.parity --write docs`; do not edit. -->

Each case is one small function that trains, evaluates or predicts. It runs unchanged in plain Keras on one
device, and under every layout below. A cell is the largest relative difference of any weight, optimizer slot,
loss, metric or prediction from plain Keras: float32, tolerance {RELATIVE_TOLERANCE:.0e}, 0 for `one_device`.
`FAIL`: out of tolerance, or rows, counts or replicas that do not agree. `error`, `hang`, `crash`: the run did
not end. An empty cell is not run. The last batch of an epoch is smaller than the others wherever a title says
"uneven".

Layouts: `stock_*` are TensorFlow's own strategies; `mirrored_N` has N devices; `workers_PxD` has P processes
with D devices each, on loopback. `mesh_BxM` splits batches over B devices, and over M transformers by heads and
columns, or else whatever divides; `mesh_2x2_optimizer` splits the optimizer's state over the batch axis too
(`shard_optimizer`), `mesh_2x2_sharded` weights and gradients (`shard_weights`), and `mesh_workers_2x2` has two of the
four devices in each of two processes. CPU devices throughout."""

MESH_COLUMNS = tuple(name for name in COLUMNS if LAYOUTS[name].mesh)
REPLICA_COLUMNS = tuple(name for name in COLUMNS if name not in MESH_COLUMNS)


def cell_text(cell: Cell | None) -> str:
    """Returns what the table shows: the measured difference, or how the run ended."""
    if cell is None:
        return ""
    if cell.outcome in ("ok", "FAIL"):
        figure = "0" if cell.difference == 0 else f"{cell.difference:.0e}"
        return figure if cell.passed else f"FAIL {figure}" if cell.difference > 0 else "FAIL"
    return cell.outcome


def to_markdown(cells: Mapping[tuple[str, str], Cell], cases: Mapping[str, Case]) -> str:
    """Returns the page: one section for each oracle, one row for each case; meshes in a table of their own."""
    lines = [_INTRODUCTION]
    for oracle in dict.fromkeys(case.oracle for case in cases.values()):
        lines += ["", f"## {ORACLES[oracle]} ({oracle})"]
        of_oracle = [case for case in cases.values() if case.oracle == oracle]
        lines += _rows(cells, of_oracle, REPLICA_COLUMNS)
        lines += _rows(cells, [case for case in of_oracle if _is_on_meshes(case)], MESH_COLUMNS)
    return "\n".join(lines) + "\n"


def _is_on_meshes(case: Case) -> bool:
    return not set(MESH_COLUMNS).isdisjoint(case.layouts)


_MESH_INTRODUCTION = f"""# Layers and optimizers on a mesh

<!-- Written by `python -m tfdist.parity --write docs`; do not edit. -->

The rows of [parity.md](../parity.md) that are about one layer or one optimizer: the largest relative difference of any
weight, optimizer slot, loss or prediction from plain Keras on one device, float32, tolerance
{RELATIVE_TOLERANCE:.0e}. Each layer stands between two dense ones, and whatever the mesh divides of their variables is
split. What is not listed has not been tried."""

_SUBJECTS = {
    "Layers": ("layer[", "embedding", "lstm_tagger"),
    "Layers that draw random numbers": ("random_by_row[",),
    "Whole models": ("bert", "bert_tagger", "keras_hub_backbone[", "attention"),
    "Optimizers": ("optimizer[",),
}


def to_mesh_page(cells: Mapping[tuple[str, str], Cell], cases: Mapping[str, Case]) -> str:
    """Returns the page of layers and optimizers on meshes."""
    lines = [_MESH_INTRODUCTION]
    for subject, beginnings in _SUBJECTS.items():
        chosen = [
            case
            for name, case in cases.items()
            if _is_on_meshes(case)
            and any(name == begin or (begin.endswith("[") and name.startswith(begin)) for begin in beginnings)
        ]
        lines += ["", f"## {subject}", *_rows(cells, chosen, MESH_COLUMNS)]
    return "\n".join(lines) + "\n"


def _rows(
    cells: Mapping[tuple[str, str], Cell], cases: Sequence[Case], columns: Sequence[str]
) -> Iterator[str]:
    if not cases:
        return
    yield from ("", "| Case | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|")
    for case in cases:
        texts = [cell_text(cells.get((case.name, column))) for column in columns]
        yield f"| `{case.name}`: {case.title.rstrip('.')} | " + " | ".join(texts) + " |"


def to_table(
    cells: Mapping[tuple[str, str], Cell], cases: Mapping[str, Case], columns: Sequence[str]
) -> Table:
    """Returns the table for the terminal; failing cells in red."""
    table = Table("oracle", "case", *columns, show_lines=False)
    for case in cases.values():
        row = []
        for column in columns:
            cell = cells.get((case.name, column))
            colour = "white" if cell is None else "green" if cell.passed else "red"
            row.append(f"[{colour}]{cell_text(cell)}[/]")
        table.add_row(case.oracle, escape(case.name), *row)
    return table
