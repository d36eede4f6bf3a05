import json
import shlex

import pytest

from tfdist.errors import ClusterError
from tfdist.launch.worker_plan import plan_workers

ADDRESSES = ("a:1", "a:2", "b:1")


def plan(local=range(2), num_cpus=8, environ=None, **options):
    return plan_workers(
        ADDRESSES, local, ["python", "my train.py"], num_cpus=num_cpus, environ=environ or {}, **options
    )


def test_every_worker_knows_the_cluster_and_its_place():
    first, second = plan()
    assert json.loads(second.env["TF_CONFIG"]) == {
        "cluster": {"worker": list(ADDRESSES)},
        "task": {"type": "worker", "index": 1},
    }
    assert (first.name, second.process_index) == ("worker 0", 1)
    assert "TFDIST_DEVICES_PER_WORKER" not in first.env


def test_second_host():
    (worker,) = plan(local=range(2, 3))
    assert json.loads(worker.env["TF_CONFIG"])["task"]["index"] == 2
    assert worker.name == "worker 2"


@pytest.mark.parametrize(
    ("num_cpus", "devices", "intra_op", "inter_op"),
    [(8, None, 4, 4), (16, 2, 8, 8), (2, 2, 1, 6), (1, None, 1, 4)],
)
def test_cores_are_divided_and_collectives_never_starve(num_cpus, devices, intra_op, inter_op):
    for worker in plan(num_cpus=num_cpus, devices_per_worker=devices):
        assert worker.env["TF_NUM_INTRAOP_THREADS"] == worker.env["OMP_NUM_THREADS"] == str(intra_op)
        assert worker.env["TFDIST_DATA_THREADS"] == str(intra_op)
        assert worker.env["TF_NUM_INTEROP_THREADS"] == str(inter_op)


def test_threads_set_by_the_user_stay():
    (worker,) = plan(local=[0], environ={"OMP_NUM_THREADS": "3"}, devices_per_worker=2)
    assert "OMP_NUM_THREADS" not in worker.env
    assert worker.env["TF_NUM_INTRAOP_THREADS"] == "8"
    assert worker.env["TFDIST_DEVICES_PER_WORKER"] == "2"


def test_gpus_are_divided():
    assert [worker.env["CUDA_VISIBLE_DEVICES"] for worker in plan(gpus=("4", "5", "6", "7"))] == [
        "4,5",
        "6,7",
    ]
    assert "CUDA_VISIBLE_DEVICES" not in plan()[0].env


def test_shell_command_can_be_pasted():
    words = shlex.split(plan()[0].to_shell())
    assert words[-2:] == ["python", "my train.py"]
    assert json.loads(words[0].removeprefix("TF_CONFIG="))["cluster"]["worker"] == list(ADDRESSES)


def test_wrong_address():
    with pytest.raises(ClusterError, match="tfdist launch: 'a' is no address"):
        plan_workers(["a"], [0], ["x"], num_cpus=1, environ={})
