import io

import numpy as np
import pytest
from rich.console import Console

from tfdist.tasks.report import class_report, report_table


def test_hand_computed():
    # 3 of class a (2 found), 1 of class b (found, and one a taken for b), none of class c.
    report = class_report(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), ["a", "b", "c"])
    assert report["a"] == {"precision": 1.0, "recall": 2 / 3, "f1-score": 0.8, "support": 3}
    assert report["b"] == {"precision": 0.5, "recall": 1.0, "f1-score": pytest.approx(2 / 3), "support": 1}
    assert report["c"] == {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0}
    assert report["macro avg"]["recall"] == pytest.approx((2 / 3 + 1) / 3)
    assert report["weighted avg"]["recall"] == pytest.approx(0.75)
    assert report["weighted avg"]["support"] == 4


def test_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 5, (2, 300))
    names = list("abcde")
    expected = metrics.classification_report(
        labels, predictions, labels=range(5), target_names=names, output_dict=True, zero_division=0
    )
    report = class_report(labels, predictions, names)
    for name, row in report.items():
        assert row == pytest.approx(expected[name])


def test_table_shows_every_row_in_order():
    report = class_report(np.array([0, 1]), np.array([0, 0]), ["cats", "dogs"])
    console = Console(file=io.StringIO(), width=100)
    console.print(report_table(report, "test split"))
    text = console.file.getvalue()
    assert [name for name in ("cats", "dogs", "macro avg", "weighted avg") if name in text] == list(report)
    assert text.index("cats") < text.index("dogs") < text.index("macro avg")
    assert "0.667" in text
