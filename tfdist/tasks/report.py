"""Precision, recall, F1 and support, class by class, in the layout that scikit-learn and seqeval share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

Report = dict[str, dict[str, float]]

COLUMNS = ("precision", "recall", "f1-score", "support")


def class_report(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> Report:
    """Scores each class. A ratio of nothing to nothing is 0, as in scikit-learn with `zero_division=0`.

    Args:
        labels: True class numbers, int (examples,).
        predictions: Predicted class numbers, int (examples,).
        names: Name of each class, in the order of the numbers.

    Returns:
        For each name, and for `macro avg` and `weighted avg`, the four `COLUMNS`.
    """
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    hits, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    recall = hits / np.maximum(support, 1)
    precision = hits / np.maximum(predicted, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    scores = np.stack([precision, recall, f1])
    total = int(support.sum())

    def row(values: np.ndarray, count: int) -> dict[str, float]:
        return dict(zip(COLUMNS, [*map(float, values), int(count)], strict=True))

    report = {name: row(scores[:, i], support[i]) for i, name in enumerate(names)}
    report["macro avg"] = row(scores.mean(1), total)
    report["weighted avg"] = row((scores * support).sum(1) / max(total, 1), total)
    return report


def report_table(report: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """Returns `report` as a table for the terminal; the averages stand below a line."""
    table = Table("class", title=title, title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    averages = [name for name in report if name.endswith(" avg")]
    classes = [name for name in report if name not in averages]
    for name in [*classes, *averages]:
        scores = report[name]
        values = [f"{scores[column]:.3f}" for column in COLUMNS[:-1]]
        table.add_row(name, *values, str(int(scores["support"])), end_section=name in classes[-1:])
    return table
