"""A process that has imported TensorFlow but run nothing; others are forked from it, which saves the import's time.

`python -m tfdist.parity.run.template SOCKET` serves requests until the other end of the socket is closed. It has one
thread (it refuses to serve with more), and no operation, device or connection was ever made in it. So a fork of it is
like a new process right after its imports. The fork ends as any program does, through Python's own finalization.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import runpy
import socket
import sys
from pathlib import Path
from typing import Any

# These are imported before the first fork, because every fork needs them.
_PRELOADED = ("numpy", "tensorflow", "keras", "h5py", "tfdist.parity.registry")
_MAX_MESSAGE = 1 << 20


def main() -> None:
    """Serves requests in the template; in each fork, runs the program that was asked for."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    for module in _PRELOADED:
        __import__(module)
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        sys.exit(f"The template has {threads} threads; a fork of it might find their locks taken.")
    collect_rarely()
    request = _serve(connection)
    if request is not None:
        connection.close()
        _become(request)


def collect_rarely() -> None:
    """Keeps Python's garbage collector from walking through what is loaded, and has it run less often from now on.

    Else each fork would copy the pages of TensorFlow's modules. TensorFlow's graphs make many objects and few circles:
    Python's own thresholds take a tenth of the time of a case.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Answers requests. Returns None once the other end is closed, and in each fork the request for it."""
    connection.send(b"ready")
    while True:
        message, outputs = _receive(connection)
        if not message:
            return None
        request = json.loads(message)
        if "poll" in request:
            connection.send(json.dumps(_exit_code(request["poll"])).encode())
            continue
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.dup2(outputs[0], 1)
            os.dup2(outputs[1], 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for output in outputs:
            os.close(output)
        if pid == 0:
            return request
        connection.send(json.dumps(pid).encode())


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    message, ancillary, _, _ = connection.recvmsg(_MAX_MESSAGE, socket.CMSG_SPACE(2 * descriptors.itemsize))
    for _, kind, data in ancillary:
        if kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, list(descriptors)


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(request: dict[str, Any]) -> None:
    """Runs `-m MODULE`, `-c CODE` or a script, as `python` does with these arguments."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    first, *rest = request["arguments"]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in given if path and path not in sys.path]
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *rest]
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
