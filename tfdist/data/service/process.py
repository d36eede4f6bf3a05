"""A process of tf.data's service: the dispatcher, or a data worker of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from tensorflow.data.experimental import service as tf_service

from tfdist.errors import ClusterError

# A data worker learns of new work, and the dispatcher of a lost data worker, at this pace.
_HEARTBEAT_MS = 500
_LOST_MS = 5_000
_REGISTER_MS = 60_000
_POLL_S = 1.0


def run_dispatcher(port: int, *, with_parent: bool = False) -> None:
    """Runs a dispatcher until the process is ended, or with `with_parent` until its parent has gone.

    Raises:
        ClusterError: It cannot listen on the port.
    """
    config = tf_service.DispatcherConfig(port=port, worker_timeout_ms=_LOST_MS)
    server = _started(lambda: tf_service.DispatchServer(config), f"the dispatcher, port {port}")
    print(f"data dispatcher: {server.target}", flush=True)
    _stay(with_parent)


def run_data_worker(dispatcher: str, host: str, port: int, *, with_parent: bool = False) -> None:
    """Runs a data worker of the dispatcher at `dispatcher`; training processes reach it at `host:port`.

    Raises:
        ClusterError: It cannot listen on the port, or the dispatcher does not answer.
    """
    config = tf_service.WorkerConfig(
        dispatcher_address=dispatcher,
        worker_address=f"{host}:{port}",
        port=port,
        heartbeat_interval_ms=_HEARTBEAT_MS,
        dispatcher_timeout_ms=_REGISTER_MS,
    )
    what = f"the data worker {host}:{port} of the dispatcher {dispatcher}"
    server = _started(lambda: tf_service.WorkerServer(config), what)
    print(f"data worker: {host}:{port} of {dispatcher}", flush=True)
    _stay(with_parent)
    del server


def _started(start: Callable[[], Any], what: str) -> Any:
    try:
        return start()
    except Exception as error:  # TensorFlow raises all kinds
        raise ClusterError(
            f"{what} cannot be started: {error}. Choose a free --port, and a dispatcher that this host can reach."
        ) from error


def _stay(with_parent: bool) -> None:
    """Waits for ever, or until the parent has gone: a launcher that was killed leaves nothing behind."""
    parent = os.getppid()
    while not with_parent or os.getppid() == parent:
        time.sleep(_POLL_S)
