"""TCP ports for the workers of this host."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

from tfdist.errors import ClusterError


def find_free_ports(count: int) -> tuple[int, ...]:
    """Returns `count` different ports on which nobody listens on this host."""
    with contextlib.ExitStack() as stack:
        # All ports are held at once, so that none comes twice.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("", 0))
        return tuple(sock.getsockname()[1] for sock in sockets)


def why_not_free(port: int) -> str | None:
    """Returns why `port` of this host cannot be listened on now, in the system's words; None if it can."""
    with socket.socket() as sock:
        # TensorFlow's server, too, can take a port that an earlier run has just left.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def check_ports_free(ports: Iterable[int]) -> None:
    """Refuses ports that another program holds.

    Raises:
        ClusterError: a port is in use, or this user may not listen on it.
    """
    for port in ports:
        reason = why_not_free(port)
        if reason is not None:
            raise ClusterError(
                f"port {port} of this host cannot be used: {reason}. Choose another first port with --port, the same "
                "on every host; on a single host, leave --port out to get free ones."
            )
