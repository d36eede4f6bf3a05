"""TCP ports for the workers of this host."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

from tfdist.errors import ClusterError


def find_free_ports(count: int) -> tuple[int, ...]:
    """Returns `count` different ports on which nobody listens on this host."""
    with contextlib.ExitStack() as stack:
        # All are held at once, so that none comes twice.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("", 0))
        return tuple(sock.getsockname()[1] for sock in sockets)


def why_not_free(port: int) -> str | None:
    """Returns in the system's words why nobody can listen on `port` of this host now, or None if one can."""
    with socket.socket() as sock:
        # A port that a former run has just left is free for TensorFlow's server too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def check_ports_free(ports: Iterable[int]) -> None:
    """Refuses ports that somebody else holds.

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
