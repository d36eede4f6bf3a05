"""`TF_CONFIG`: TensorFlow's own description, set by hand, by `tfdist launch` and by Kubeflow's TFJob."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfdist.cluster.spec import ClusterInfo
from tfdist.errors import ClusterError, did_you_mean

SOURCE = "TF_CONFIG"

# TensorFlow 1 and Kubeflow's `Master` replica say master for what TensorFlow 2 calls chief.
_SYNONYMS = {"master": "chief"}
_JOBS = ("chief", "worker", "ps", "evaluator")
_CURE = (
    'Write e.g. TF_CONFIG=\'{"cluster": {"worker": ["a:12345", "b:12345"]}, '
    '"task": {"type": "worker", "index": 0}}\''
    ", or unset TF_CONFIG to train in one process."
)


def is_present(env: Mapping[str, str]) -> bool:
    """Whether `TF_CONFIG` says anything."""
    return env.get("TF_CONFIG", "").strip() not in ("", "{}")


def read_cluster(env: Mapping[str, str]) -> ClusterInfo | None:
    """Reads the cluster, also that of a single worker, because it was given explicitly.

    Raises:
        ClusterError: the JSON is malformed, or the cluster or task in it is wrong.
    """
    text = env["TF_CONFIG"]
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ClusterError(
            f"TF_CONFIG is not valid JSON: {error.msg} at character {error.pos}; got {text!r}. {_CURE}"
        ) from None
    if not isinstance(config, dict):
        raise ClusterError(f"TF_CONFIG must be a JSON object, got {text!r}. {_CURE}")
    jobs = _read_jobs(config.get("cluster"))
    task_type, task_index = _read_task(config.get("task", {}), jobs)
    return ClusterInfo(
        workers=jobs.get("worker", ()),
        chief=next(iter(jobs.get("chief", ())), None),
        ps=jobs.get("ps", ()),
        evaluators=jobs.get("evaluator", ()),
        task_type=task_type,
        task_index=task_index,
        source=SOURCE,
    )


def _read_jobs(cluster: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(cluster, dict):
        raise ClusterError(f"TF_CONFIG: 'cluster' must map job names to addresses, got {cluster!r}. {_CURE}")
    jobs: dict[str, tuple[str, ...]] = {}
    for given, addresses in cluster.items():
        job = _SYNONYMS.get(given) or str(given)
        if job not in _JOBS:
            raise ClusterError(
                f"TF_CONFIG: unknown job {given!r}; allowed: {', '.join(_JOBS)}.{did_you_mean(job, _JOBS)}"
            )
        if job in jobs:
            raise ClusterError("TF_CONFIG: the cluster has both a 'chief' and a 'master' job. Keep 'chief'.")
        jobs[job] = _addresses(given, addresses)
    if len(jobs.get("chief", ())) > 1:
        raise ClusterError(
            f"TF_CONFIG: only one chief is allowed, got {list(jobs['chief'])}. Make the others workers."
        )
    return jobs


def _read_task(task: Any, jobs: Mapping[str, tuple[str, ...]]) -> tuple[str, int]:
    if not isinstance(task, dict):
        raise ClusterError(f"TF_CONFIG: 'task' must be an object with type and index, got {task!r}. {_CURE}")
    # The type and index may be left out if only one of each is possible.
    task_type = task.get("type", next(iter(jobs)) if len(jobs) == 1 else None)
    if not isinstance(task_type, str):
        raise ClusterError(
            f"TF_CONFIG: the task's 'type' must be one of {', '.join(jobs) or 'worker'}, got {task_type!r}. "
            f"{_CURE}"
        )
    task_type = _SYNONYMS.get(task_type, task_type)
    index = task.get("index", 0 if len(jobs.get(task_type, ())) == 1 else None)
    # Kubeflow and shell scripts may write the index as text.
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if type(index) is not int:
        raise ClusterError(f"TF_CONFIG: the task's 'index' must be a whole number, got {index!r}. {_CURE}")
    return task_type, index


def _addresses(job: str, given: Any) -> tuple[str, ...]:
    """Reads the addresses of a job: a list, or a map from every index to its address."""
    if isinstance(given, dict):
        dense = [given.get(str(index)) for index in range(len(given))]
        if None in dense:
            raise ClusterError(
                f"TF_CONFIG: job {job!r} names only the tasks {sorted(given)}, but every address is needed. "
                "With Kubeflow, set enableDynamicWorker: false."
            )
        given = dense
    if not isinstance(given, list):
        raise ClusterError(f"TF_CONFIG: job {job!r} must list its addresses, got {given!r}. {_CURE}")
    return tuple(given)
