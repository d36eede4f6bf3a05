import json

import pytest

from tfdist.cluster import ClusterInfo
from tfdist.cluster.spec import read_int
from tfdist.errors import ClusterError


def test_workers_only():
    cluster = ClusterInfo(workers=("a:1", "b:1"), task_index=1, source="test")
    assert (cluster.num_processes, cluster.process_index, cluster.is_chief) == (2, 1, False)
    assert json.loads(cluster.to_tf_config()) == {
        "cluster": {"worker": ["a:1", "b:1"]},
        "task": {"type": "worker", "index": 1},
    }


def test_chief_comes_before_the_workers():
    jobs = {
        "chief": "c:1",
        "workers": ("a:1", "b:1"),
        "ps": ("p:1",),
        "evaluators": ("e:1",),
        "source": "test",
    }
    chief = ClusterInfo(**jobs, task_type="chief")
    assert (chief.num_processes, chief.process_index, chief.is_chief) == (3, 0, True)
    worker = ClusterInfo(**jobs, task_type="worker", task_index=0)
    assert (worker.process_index, worker.is_chief) == (1, False)
    assert worker.training_addresses == ("c:1", "a:1", "b:1")
    assert list(json.loads(worker.to_tf_config())["cluster"]) == ["chief", "worker", "ps", "evaluator"]


@pytest.mark.parametrize("task_type", ["ps", "evaluator"])
def test_others_do_not_train(task_type):
    cluster = ClusterInfo(workers=("a:1",), ps=("p:1",), task_type=task_type, source="test")
    assert not cluster.is_chief
    with pytest.raises(ClusterError, match="takes no part in training"):
        _ = cluster.process_index


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": ()}, "the cluster is empty"),
        ({"workers": ("a:1", "a:1")}, "'a:1' is given to two tasks"),
        ({"workers": ("a:1",), "chief": "a:1"}, "'a:1' is given to two tasks"),
        ({"workers": ("a",)}, "'a' is no address"),
        ({"workers": ("a:0",)}, "'a:0' is no address"),
        ({"workers": ("a:65536",)}, "'a:65536' is no address"),
        ({"workers": ("grpc://a:1",)}, "without a scheme"),
        ({"workers": ("fe80::1:1",)}, r"\[fe80::1\]:12345 for IPv6"),
        ({"workers": (":1",)}, "':1' is no address"),
        ({"workers": ("a:1",), "task_index": 1}, "allowed: 0 to 0"),
        ({"workers": ("a:1",), "task_index": -1}, "task index -1"),
        ({"workers": ("a:1",), "task_type": "ps"}, "has no 'ps' job"),
        ({"workers": ("a:1",), "task_type": "wroker"}, "Did you mean 'worker'"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(ClusterError, match=message) as info:
        ClusterInfo(**fields, source="test")
    assert str(info.value).startswith("test: ")


def test_ipv6_and_underscores_are_addresses():
    assert ClusterInfo(workers=("[fe80::1]:12345", "my_host-1.svc:1"), source="test").num_processes == 2


@pytest.mark.parametrize("env", [{}, {"X": "two"}, {"X": "0"}, {"X": "9"}])
def test_read_int_refuses(env):
    with pytest.raises(ClusterError, match="variable X must be a whole number of at least 1 and at most 8"):
        read_int(env, "X", minimum=1, maximum=8)
