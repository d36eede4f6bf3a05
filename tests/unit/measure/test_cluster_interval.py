import pytest

from tfdist.measure.cluster_interval import summarize
from tfdist.measure.step_meter import Interval


def test_one_process() -> None:
    interval = Interval(num_steps=10, seconds=2.0, examples=80, tokens=400, input_s=0.5)
    assert summarize([interval]) == {
        "step_time/total_ms": 200.0,
        "step_time/input_ms": 50.0,
        "step_time/compute_ms": 150.0,
        "throughput/examples_per_sec": 40.0,
        "throughput/tokens_per_sec": 200.0,
    }


def test_a_worker_with_slow_input_makes_the_other_wait() -> None:
    slow = Interval(num_steps=10, seconds=2.0, examples=40, tokens=0, input_s=1.2)
    fast = Interval(num_steps=10, seconds=2.0, examples=40, tokens=0, input_s=0.2)
    scalars = summarize([slow, fast])
    assert scalars == pytest.approx(
        {
            "step_time/total_ms": 200.0,
            "step_time/input_ms": 70.0,
            "step_time/compute_ms": 80.0,
            "step_time/waiting_ms": 50.0,
            "throughput/examples_per_sec": 40.0,
        }
    )
    parts = [scalars[f"step_time/{part}_ms"] for part in ("input", "compute", "waiting")]
    assert sum(parts) == pytest.approx(scalars["step_time/total_ms"])


def test_what_is_not_known_is_not_said() -> None:
    assert summarize([Interval(10, 2.0, None, None, None)]) == {"step_time/total_ms": 200.0}
    some = [Interval(10, 2.0, 80, None, 0.1), Interval(10, 2.0, None, None, None)]
    assert summarize(some) == {"step_time/total_ms": 200.0}
