"""Groups of worker processes on this host, each with a hard limit; no TensorFlow here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfdist.launch.ports import find_free_ports

# Small models gain nothing from many threads, and several processes share the cores.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


def worker_environments(num_processes: int) -> list[dict[str, str]]:
    """Returns the environment of each worker, with a `TF_CONFIG` where there are several."""
    if num_processes == 1:
        return [{}]
    workers = [f"127.0.0.1:{port}" for port in find_free_ports(num_processes)]
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            )
        }
        for index in range(num_processes)
    ]


class ProcessGroup:
    """Processes that start, and are ended, together.

    Each one is the leader of its own process group, so that what it started ends with it. Output goes to one
    log file for each.
    """

    def __init__(
        self, command: Sequence[str], environments: Sequence[Mapping[str, str]], logs: Sequence[Path]
    ) -> None:
        """Starts one process for each environment.

        Args:
            command: The same for all.
            environments: What each adds to the environment of this process.
            logs: Where the output of each goes; appended.
        """
        base = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | QUIET
        self._processes = []
        for environment, log in zip(environments, logs, strict=True):
            with log.open("ab") as output:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        env=base | dict(environment),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def poll(self) -> list[int | None]:
        """Returns the exit code of each process, None while it runs."""
        return [process.poll() for process in self._processes]

    def send_signal(self, index: int, number: signal.Signals) -> None:
        """Sends a signal to one process and what it started."""
        os.killpg(self._processes[index].pid, number)

    def wait(self, limit_s: float, grace_s: float | None = None) -> list[int | None]:
        """Waits until all processes have ended.

        Args:
            limit_s: Seconds to wait at most.
            grace_s: Seconds that the others get once one has failed; as long as `limit_s` where None.

        Returns:
            The exit codes; None for a process that had to be killed.
        """
        deadline, failed = time.monotonic() + limit_s, False
        while None in (codes := self.poll()) and time.monotonic() < deadline:
            if not failed and any(codes) and grace_s is not None:
                failed, deadline = True, min(deadline, time.monotonic() + grace_s)
            time.sleep(0.05)
        codes = self.poll()
        self.kill()
        return codes

    def kill(self) -> None:
        """Ends every process that still runs, and what it started."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
