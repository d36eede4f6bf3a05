import math

import numpy as np
import pytest

from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference
from tfdist.parity.comparison import compare, kind_of, merge_processes


def one(name, value):
    return {name: np.asarray(value)}


def test_tolerance_is_what_the_documents_say():
    assert RELATIVE_TOLERANCE == 1e-5


@pytest.mark.parametrize(
    ("value", "reference", "floor", "expected"),
    [
        ([1.0], [1.0], 1.0, 0.0),
        ([101.0], [100.0], 1.0, 0.01),
        ([0.02], [0.01], 1.0, 0.01),
        ([0.02], [0.01], 0.1, 0.1),
        ([math.nan], [1.0], 1.0, math.inf),
        ([math.nan], [math.nan], 1.0, 0.0),
        ([math.inf], [math.inf], 1.0, 0.0),
        ([math.inf], [-math.inf], 1.0, math.inf),
        ([1.0, 2.0], [1.0], 1.0, math.inf),
    ],
)
def test_relative_difference(value, reference, floor, expected):
    assert relative_difference(np.asarray(value), np.asarray(reference), floor) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "value", "reference", "passes"),
    [
        ("weights/0", [1.000009], [1.0], True),
        ("weights/0", [1.00002], [1.0], False),
        ("history/loss", [0.1000009], [0.1], True),
        ("history/loss", [0.100002], [0.1], False),
        ("bfloat16/0", [1.015], [1.0], True),
        ("bfloat16/0", [1.016], [1.0], False),
        ("float16/0", [1.0019], [1.0], True),
        ("float16/0", [1.002], [1.0], False),
        ("exact/count", 3, 3, True),
        ("exact/count", 3, 4, False),
        ("ids/epoch", [1, 2, 2], [1, 2, 3], False),
        ("true/finite", False, False, False),
        ("zero/replicas", 1e-9, 1e-9, False),
        ("zero/replicas", 0.0, 0.0, True),
        ("agree/loss", 1.0, 2.0, True),
    ],
)
def test_compare(name, value, reference, passes):
    assert compare(one(name, value), one(name, reference)).passed is passes


def test_one_device_must_not_change_a_bit():
    nearly = np.nextafter(np.float32(1), np.float32(2))
    assert not compare(one("weights/0", nearly), one("weights/0", np.float32(1)), bit_equal=True).passed
    assert not compare(one("float16/0", nearly), one("float16/0", np.float32(1)), bit_equal=True).passed


def test_a_missing_result_fails():
    assert not compare({}, one("weights/0", 1.0)).passed


def test_processes_must_agree_bit_for_bit():
    _, failures = merge_processes([one("weights/0", np.float32(1)), one("weights/0", np.float32(1.0000001))])
    assert failures == ["weights/0 is not the same in all processes"]


def test_parts_of_the_ids_are_put_together():
    merged, failures = merge_processes([one("ids/epoch", [3, 1]), one("ids/epoch", [2])])
    assert merged["ids/epoch"].tolist() == [1, 2, 3]
    assert failures == []


def test_a_process_with_other_results_is_named():
    _, failures = merge_processes([one("exact/a", 1), one("exact/b", 1)])
    assert "process 1 returned other results" in failures[0]


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'speed/step' has no known kind"):
        kind_of("speed/step")
