"""The processes of a data service: what is started where, and what happens when one ends."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

import pytest

from tfdist.launch.companions import MAX_RESTARTS, Companions
from tfdist.launch.data_service import DATA_WORKER, DISPATCHER, DataServiceLayout
from tfdist.launch.screen import Screen
from tfdist.launch.worker_plan import WorkerPlan


def test_each_host_has_its_data_workers_and_the_first_the_dispatcher() -> None:
    layout = DataServiceLayout.on_hosts(["a", "b"], 2, 5000)
    first, second = (layout.plans(index, num_cpus=8, environ={}) for index in range(2))
    assert [plan.name for plan in first] == ["data dispatcher 0", "data worker 0", "data worker 1"]
    assert [plan.name for plan in second] == ["data worker 2", "data worker 3"]
    assert first[0].command[-2:] == ("--port", "5000")
    assert second[1].command[-6:] == ("--dispatcher", "a:5000", "--host", "b", "--port", "5002")
    assert (layout.ports_of(0), layout.ports_of(1)) == ((5000, 5001, 5002), (5001, 5002))
    assert first[1].env["TF_NUM_INTRAOP_THREADS"] == "4" and first[1].env["CUDA_VISIBLE_DEVICES"] == "-1"


def plan(role: str, code: str) -> WorkerPlan:
    return WorkerPlan(process_index=0, role=role, command=(sys.executable, "-c", code), env={})


def problem_of(companions: Companions, limit_s: float = 30.0) -> str:
    limit = time.monotonic() + limit_s
    while (problem := companions.problem()) is None:
        assert time.monotonic() < limit, "nothing was noticed"
        time.sleep(0.02)
    return problem


@pytest.mark.parametrize(
    ("role", "starts", "told"),
    [
        (DISPATCHER, 1, r"data dispatcher 0 has ended \(exit code 3\), and the run with it.*no port"),
        (
            DATA_WORKER,
            MAX_RESTARTS + 1,
            r"data worker 0 has ended \(4 times, the last time exit code 3\).*no port",
        ),
    ],
)
def test_what_ends_is_started_again_or_named(tmp_path: Path, role: str, starts: int, told: str) -> None:
    started = str(tmp_path / "starts")
    code = f"import sys; open({started!r}, 'a').write('x'); print('no port', file=sys.stderr); sys.exit(3)"
    out, err = io.StringIO(), io.StringIO()
    companions = Companions([plan(role, code)], Screen(out, err), tmp_path / "logs")
    companions.start()
    try:
        problem = problem_of(companions)
    finally:
        companions.end()
    assert re.search(told, problem.replace("\n", " "))
    assert (tmp_path / "starts").read_text() == "x" * starts
    assert err.getvalue().count("is started again") == starts - 1
    assert (tmp_path / "logs" / f"{role.replace(' ', '_')}_0.log").read_text().count("no port") == starts
