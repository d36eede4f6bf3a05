"""A TCP proxy on loopback that lets so many bits a second through in each direction, and counts the bytes."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path


class Throttle:
    """A token bucket, shared by the connections of one direction; what went through is written to `counter`."""

    def __init__(self, rate_mbit: float, counter: Path) -> None:
        self.bytes_per_s = rate_mbit * 1e6 / 8
        self.counter, self.count = counter, 0
        self._free_at = time.monotonic()
        self._lock = threading.Lock()
        # Digits are overwritten in place: whoever reads meanwhile finds a number.
        self._file = counter.open("w+b", buffering=0)
        self._write()

    def let_through(self, size: int) -> None:
        """Waits until `size` bytes may go."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self.bytes_per_s
            wait = self._free_at - now
            self.count += size
            self._write()
        if wait > 0:
            time.sleep(wait)

    def _write(self) -> None:
        os.pwrite(self._file.fileno(), b"%020d" % self.count, 0)


class Proxy:
    """Listens on a free port of loopback and hands all on to `target`.

    Args:
        target: Port of loopback.
        there: What the bytes to `target` pass.
        back: What the bytes from it pass.
    """

    def __init__(self, target: int, there: Throttle, back: Throttle) -> None:
        self._target, self._there, self._back = target, there, back
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # the worker does not listen yet; the client tries again
            client.close()
            return
        back = threading.Thread(target=_copy, args=(server, client, self._back), daemon=True)
        back.start()
        _copy(client, server, self._there)
        back.join()
        client.close()
        server.close()


def _copy(source: socket.socket, sink: socket.socket, throttle: Throttle) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            throttle.let_through(len(data))
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
