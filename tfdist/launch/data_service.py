"""The processes of tf.data's service that a launcher starts beside the workers; nothing is started here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfdist.cluster.data_service import DATA_SERVICE, DATA_WORKERS
from tfdist.launch.start_up_lines import LOG_LEVEL, QUIET_LEVEL, hides_start_up_lines
from tfdist.launch.worker_plan import WorkerPlan

DISPATCHER = "data dispatcher"
DATA_WORKER = "data worker"


@dataclass(frozen=True)
class DataServiceLayout:
    """Where the processes of a data service listen.

    Attributes:
        dispatcher: `host:port` of the dispatcher, which runs on the first host.
        workers: For each host, `host:port` of its data workers.
    """

    dispatcher: str
    workers: tuple[tuple[str, ...], ...]

    @classmethod
    def on_one_host(cls, host: str, ports: Sequence[int]) -> DataServiceLayout:
        """Returns a dispatcher and data workers on these ports, the dispatcher first."""
        return cls(f"{host}:{ports[0]}", (tuple(f"{host}:{port}" for port in ports[1:]),))

    @classmethod
    def on_hosts(cls, hosts: Sequence[str], num_each: int, first_port: int) -> DataServiceLayout:
        """Returns a dispatcher on the first of `hosts`, and `num_each` data workers on each, on the ports after it."""
        workers = tuple(tuple(f"{host}:{first_port + 1 + i}" for i in range(num_each)) for host in hosts)
        return cls(f"{hosts[0]}:{first_port}", workers)

    def variables(self) -> dict[str, str]:
        """Returns the environment variables by which a training process finds the service."""
        addresses = [address for of_host in self.workers for address in of_host]
        return {DATA_SERVICE: self.dispatcher, DATA_WORKERS: ",".join(addresses)}

    def ports_of(self, host_index: int) -> tuple[int, ...]:
        """Returns the ports on which a host listens."""
        addresses = [*([self.dispatcher] if host_index == 0 else []), *self.workers[host_index]]
        return tuple(int(address.rpartition(":")[2]) for address in addresses)

    def plans(self, host_index: int, *, num_cpus: int, environ: Mapping[str, str]) -> tuple[WorkerPlan, ...]:
        """Returns how the processes of one host are started.

        Args:
            host_index: The host.
            num_cpus: Cores that its data workers share, with the training workers.
            environ: The launcher's environment.
        """
        own = self.workers[host_index]
        env = {
            "PYTHONUNBUFFERED": "1",
            "CUDA_VISIBLE_DEVICES": "-1",  # a data worker would take the memory of the GPUs
            "TF_NUM_INTRAOP_THREADS": str(max(1, num_cpus // len(own))),
        }
        if hides_start_up_lines(environ):
            env[LOG_LEVEL] = QUIET_LEVEL
        command = (sys.executable, "-m", "tfdist", "data-service", "--with-parent")
        plans = []
        if host_index == 0:
            port = self.dispatcher.rpartition(":")[2]
            plans.append(
                WorkerPlan(process_index=0, role=DISPATCHER, command=(*command, "--port", port), env=env)
            )
        first = sum(map(len, self.workers[:host_index]))
        for index, address in enumerate(own, first):
            host, _, port = address.rpartition(":")
            flags = ("--dispatcher", self.dispatcher, "--host", host, "--port", port)
            plans.append(
                WorkerPlan(process_index=index, role=DATA_WORKER, command=(*command, *flags), env=env)
            )
        return tuple(plans)
