import json

import pytest

from tfdist.cluster import detect_cluster
from tfdist.errors import ClusterError


def detect(config):
    return detect_cluster({"TF_CONFIG": config if isinstance(config, str) else json.dumps(config)})


def test_round_trip():
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    cluster = detect(config)
    assert json.loads(cluster.to_tf_config()) == config
    assert cluster.source == "TF_CONFIG"


def test_kubeflow_tf_job():
    cluster = detect(
        {
            "cluster": {
                "master": ["job-master-0.ns.svc:2222"],
                "ps": ["job-ps-0.ns.svc:2222"],
                "worker": ["job-worker-0.ns.svc:2222", "job-worker-1.ns.svc:2222"],
            },
            "task": {"type": "master", "index": 0},
            "environment": "cloud",
        }
    )
    assert (cluster.task_type, cluster.is_chief, cluster.num_processes) == ("chief", True, 3)
    assert json.loads(cluster.to_tf_config())["task"] == {"type": "chief", "index": 0}


def test_kubeflow_evaluator_is_outside_the_cluster():
    cluster = detect(
        {"cluster": {"chief": ["c:1"], "worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}
    )
    assert (cluster.task_type, cluster.is_chief) == ("evaluator", False)


def test_index_as_text_and_dense_map():
    cluster = detect(
        {"cluster": {"worker": {"0": "a:1", "1": "b:1"}}, "task": {"type": "worker", "index": "1"}}
    )
    assert (cluster.workers, cluster.task_index) == (("a:1", "b:1"), 1)


def test_one_explicit_worker_is_a_cluster():
    cluster = detect({"cluster": {"worker": ["localhost:1"]}})
    assert (cluster.num_processes, cluster.process_index) == (1, 0)


@pytest.mark.parametrize("text", ["", " ", "{}"])
def test_empty_is_no_cluster(text):
    assert detect(text) is None


WORKERS = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{'cluster'", "not valid JSON.* at character 1"),
        ("[1]", "must be a JSON object"),
        ({"task": {"index": 0}}, "'cluster' must map"),
        ({"cluster": {}}, "'type' must be one of worker, got None"),
        ({"cluster": {}, "task": {"type": "worker", "index": 0}}, "the cluster is empty"),
        ({"cluster": WORKERS}, "'index' must be a whole number, got None"),
        ({"cluster": WORKERS, "task": 1}, "'task' must be an object"),
        ({"cluster": WORKERS, "task": {"type": 1, "index": 0}}, "'type' must be one of worker, got 1"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": True}}, "whole number, got True"),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 2}}, "task index 2.* allowed: 0 to 1"),
        (
            {"cluster": {**WORKERS, "chief": ["c:1"]}, "task": {"index": 0}},
            "'type' must be one of worker, chief",
        ),
        ({"cluster": {"wroker": ["a:1"]}}, "unknown job 'wroker'.* Did you mean 'worker'"),
        ({"cluster": {"worker": "a:1"}}, "must list its addresses, got 'a:1'"),
        ({"cluster": {"worker": [1]}}, "1 is no address"),
        ({"cluster": {"worker": {"1": "a:1"}}}, "enableDynamicWorker: false"),
        ({"cluster": {"chief": ["a:1", "b:1"]}}, "only one chief"),
        ({"cluster": {"chief": ["a:1"], "master": ["b:1"]}}, "both a 'chief' and a 'master'"),
        (
            {"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}},
            "given to two tasks",
        ),
    ],
)
def test_refused(config, message):
    with pytest.raises(ClusterError, match=message) as info:
        detect(config)
    assert str(info.value).startswith("TF_CONFIG")
