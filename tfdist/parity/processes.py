"""Groups of worker processes on this host, each with a time limit. Nothing here imports TensorFlow."""

from __future__ import annotations

import array
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tfdist.launch.ports import find_free_ports

# Small models gain nothing from many threads, and several processes share the cores of the host.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


def worker_environments(num_processes: int) -> list[dict[str, str]]:
    """Returns the environment of each worker, with a `TF_CONFIG` if there are several."""
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


class Template:
    """Starts a process of `tfdist.parity.run.template`, and asks it to fork others."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        command = [sys.executable, "-m", "tfdist.parity.run.template", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, env=os.environ | QUIET, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        if self._connection.recv(16) != b"ready":
            raise RuntimeError("The process that others are forked from did not start.")

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
    ) -> Forked:
        """Starts `python ARGUMENTS` as a fork, in a session of its own."""
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": os.getcwd()}
        return Forked(self, self._ask(request, [stdout.fileno(), stderr.fileno()]))

    def poll(self, pid: int) -> int | None:
        """Returns the exit code of a fork, None while it runs."""
        return self._ask({"poll": pid})

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        with self._lock:
            self._connection.sendmsg([json.dumps(request).encode()], [rights] if descriptors else [])
            return json.loads(self._connection.recv(64))


class Forked:
    """A process that a template has forked, with the methods of `subprocess.Popen` that are used here."""

    def __init__(self, template: Template, pid: int) -> None:
        self.pid, self._template = pid, template
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._template.poll(self.pid)
        return self._code

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.02)
        return code


_one_template = threading.Lock()


def _template() -> Template:
    with _one_template:
        return _started_template()


@functools.cache
def _started_template() -> Template:
    return Template()


class ProcessGroup:
    """Processes that are started and ended together.

    Each one is the leader of its own process group, so that the processes which it has started end with it. The output
    of each goes to a log file of its own.
    """

    def __init__(
        self,
        command: Sequence[str],
        environments: Sequence[Mapping[str, str]],
        logs: Sequence[Path],
        *,
        forked: bool = False,
    ) -> None:
        """Starts one process for each environment.

        Args:
            command: The command, which is the same for all.
            environments: For each process, the variables that are added to the environment of this one.
            logs: For each process, the file to which its output is appended.
            forked: Whether to fork from a process that has imported TensorFlow. `command` then begins with
                `sys.executable`.
        """
        base = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | QUIET
        self._processes: list[subprocess.Popen[bytes] | Forked] = []
        for environment, log in zip(environments, logs, strict=True):
            with log.open("ab") as output:
                if forked:
                    self._processes.append(
                        _template().start(command[1:], base | dict(environment), output, output)
                    )
                    continue
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
        """Sends a signal to one process and to those that it has started."""
        os.killpg(self._processes[index].pid, number)

    def wait(self, limit_s: float, grace_s: float | None = None) -> list[int | None]:
        """Waits until all processes have ended.

        Args:
            limit_s: Seconds to wait at most.
            grace_s: Seconds that the others get once one has failed; None for `limit_s`.

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
        """Kills every process that still runs, and those that it has started."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_python(
    arguments: Sequence[str],
    folder: Path,
    limit_s: float = 120.0,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` as a fork of a process that has imported TensorFlow.

    Args:
        arguments: Arguments such as `["-c", code]`.
        folder: The folder in which the outputs are kept.
        limit_s: Seconds after which the process is killed.
        environment: Variables that are added to the environment of this process.

    Raises:
        subprocess.TimeoutExpired: It did not end in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "stdout.txt", folder / "stderr.txt"]
    with paths[0].open("wb") as stdout, paths[1].open("wb") as stderr:
        process = _template().start(arguments, os.environ | QUIET | dict(environment or {}), stdout, stderr)
    deadline = time.monotonic() + limit_s
    while (code := process.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    texts = [path.read_text(errors="replace") for path in paths]
    if code is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise subprocess.TimeoutExpired(list(arguments), limit_s, *texts)
    return subprocess.CompletedProcess(list(arguments), code, *texts)
