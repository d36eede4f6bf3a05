"""What a cluster is: the addresses of its tasks, and which of them this process is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tfdist.errors import ClusterError, did_you_mean

_TASK_TYPES = ("chief", "worker", "ps", "evaluator")
# A name or IPv4 address, or an IPv6 address in brackets, then a port.
_ADDRESS = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]*)|\[[0-9A-Fa-f:.%]+\]):(\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class ClusterInfo:
    """A validated cluster and this process's place in it.

    Attributes:
        workers: `host:port` of the worker tasks, in order.
        chief: `host:port` of a separate chief task, if the cluster names one; it trains too, as process 0.
        ps: `host:port` of the parameter servers.
        evaluators: `host:port` of side-car evaluators; they take no part in training.
        task_type: `chief`, `worker`, `ps` or `evaluator`.
        task_index: index of this process in its job.
        source: the environment that the cluster was read from, for messages.

    Raises:
        ClusterError: the cluster is empty, an address is malformed or given twice, or the task is not in it.
    """

    workers: tuple[str, ...]
    source: str
    task_type: str = "worker"
    task_index: int = 0
    chief: str | None = None
    ps: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.training_addresses:
            raise ClusterError(
                f"{self.source}: the cluster is empty: it has no worker and no chief. "
                "List at least one worker as host:port."
            )
        seen = set()
        for address in (*self.training_addresses, *self.ps, *self.evaluators):
            check_address(address, self.source)
            if address in seen:
                raise ClusterError(
                    f"{self.source}: the address {address!r} is given to two tasks. "
                    "Give every task its own host:port; tasks on one host need different ports."
                )
            seen.add(address)
        if self.task_type not in _TASK_TYPES:
            raise ClusterError(
                f"{self.source}: unknown task type {self.task_type!r}; allowed: {', '.join(_TASK_TYPES)}."
                f"{did_you_mean(self.task_type, _TASK_TYPES)}"
            )
        size = len(self.jobs.get(self.task_type, ()))
        # TensorFlow and Kubeflow leave the evaluator out of the cluster that the training processes see.
        if self.task_type == "evaluator" and size == 0:
            size = self.task_index + 1
        if not 0 <= self.task_index < size:
            allowed = f"0 to {size - 1}" if size else f"none, as the cluster has no {self.task_type!r} job"
            raise ClusterError(
                f"{self.source}: task index {self.task_index} of job {self.task_type!r} is not in the "
                f"cluster; allowed: {allowed}. Give each process its own index, counted from 0."
            )

    @property
    def training_addresses(self) -> tuple[str, ...]:
        """Addresses of the processes that train, in the order of `process_index`."""
        return ((self.chief,) if self.chief is not None else ()) + self.workers

    @property
    def jobs(self) -> dict[str, tuple[str, ...]]:
        """Addresses by job name, without the empty jobs."""
        chief = (self.chief,) if self.chief is not None else ()
        jobs = {"chief": chief, "worker": self.workers, "ps": self.ps, "evaluator": self.evaluators}
        return {job: addresses for job, addresses in jobs.items() if addresses}

    @property
    def training_jobs(self) -> dict[str, tuple[str, ...]]:
        """Addresses of the jobs that train, by name."""
        return {job: addresses for job, addresses in self.jobs.items() if job in ("chief", "worker")}

    def check_trains(self, strategy: str) -> None:
        """Checks that `strategy` can use the cluster: all its processes train, and this process too.

        Raises:
            ClusterError: There are parameter servers, or this process is one, or an evaluator.
        """
        if self.ps:
            raise ClusterError(
                f"{self.source}: the cluster has parameter servers, which {strategy} does not use. "
                "Leave the ps job out of the cluster."
            )
        self.process_index  # noqa: B018 - raises for a task that takes no part in training

    @property
    def num_processes(self) -> int:
        """Number of processes that train: the workers, and the chief if it is a task of its own."""
        return len(self.training_addresses)

    @property
    def process_index(self) -> int:
        """Place of this process among those that train.

        Raises:
            ClusterError: this process is a parameter server or an evaluator, which do not train.
        """
        if self.task_type == "chief":
            return 0
        if self.task_type == "worker":
            return self.task_index + (self.chief is not None)
        raise ClusterError(
            f"{self.source}: a {self.task_type!r} task takes no part in training and has no process index. "
            "Start the training script as a chief or worker task."
        )

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files: it is the chief task, or worker 0 if there is no chief task."""
        return self.task_type in ("chief", "worker") and self.process_index == 0

    def to_tf_config(self) -> str:
        """Returns the cluster as the JSON text of `TF_CONFIG`."""
        return json.dumps({"cluster": self.jobs, "task": {"type": self.task_type, "index": self.task_index}})


def check_address(address: object, source: str) -> None:
    """Refuses what is not `host:port` with a port from 1 to 65535.

    Raises:
        ClusterError: the address is malformed.
    """
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise ClusterError(
            f"{source}: {address!r} is no address; it must be host:port with a port from 1 to 65535, "
            "without a scheme or path. Write e.g. 10.0.0.1:12345, or [fe80::1]:12345 for IPv6."
        )


def read_int(env: Mapping[str, str], name: str, *, minimum: int = 0, maximum: int | None = None) -> int:
    """Returns the whole number in the environment variable `name`.

    Raises:
        ClusterError: the variable is missing, no whole number, or outside `minimum` to `maximum`.
    """
    text = env.get(name)
    allowed = f"a whole number of at least {minimum}" + (
        f" and at most {maximum}" if maximum is not None else ""
    )
    try:
        value = int(text) if text is not None else None
    except ValueError:
        value = None
    if value is None or value < minimum or (maximum is not None and value > maximum):
        given = "it is not set" if text is None else f"got {text!r}"
        raise ClusterError(
            f"the environment variable {name} must be {allowed}; {given}. "
            "Set it, or unset the whole group to train in one process."
        )
    return value
