"""Where a run's data service is: the variables of the environment that say it, and who of it answers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tfdist.errors import ConfigError, DataError

DATA_SERVICE = "TFDIST_DATA_SERVICE"
DATA_WORKERS = "TFDIST_DATA_WORKERS"
_CONNECT_S = 2.0
_POLL_S = 0.1


@dataclass(frozen=True)
class DataServiceAddress:
    """The addresses of a data service.

    Attributes:
        dispatcher: `host:port` of its dispatcher.
        workers: `host:port` of its data workers in their order; empty if they are not known here.
    """

    dispatcher: str
    workers: tuple[str, ...] = ()

    @property
    def silent(self) -> list[str]:
        """The names of those that do not take a connection now."""
        named = {"the dispatcher": self.dispatcher}
        named |= {f"data worker {index}": address for index, address in enumerate(self.workers)}
        return [f"{name} ({address})" for name, address in named.items() if not _answers(address)]

    def wait(self, limit_s: float) -> None:
        """Waits until the dispatcher takes a connection.

        Raises:
            DataError: It does not within `limit_s` seconds.
        """
        limit = time.monotonic() + limit_s
        while not _answers(self.dispatcher):
            if time.monotonic() > limit:
                raise DataError(
                    f"no dispatcher of a data service answers at {self.dispatcher} within {limit_s:g} s. Start it with "
                    "`tfdist launch --data-workers N`, or check the address and whether this host can reach it."
                )
            time.sleep(_POLL_S)


def find_data_service(service: str, environ: Mapping[str, str] | None = None) -> DataServiceAddress:
    """Returns where the service is.

    Args:
        service: `auto`: where the environment says; or `host:port` of a dispatcher.
        environ: The environment; None for that of this process.

    Raises:
        ConfigError: It is no address, or the environment names no service.
    """
    environ = os.environ if environ is None else environ
    if service != "auto":
        return DataServiceAddress(_checked(service, "the data service"))
    if not environ.get(DATA_SERVICE):
        raise ConfigError(
            f"the data service is 'auto', but {DATA_SERVICE} is not set. Start the run with `tfdist launch "
            "--data-workers N`, or give the dispatcher's address as host:port."
        )
    workers = [address for address in environ.get(DATA_WORKERS, "").split(",") if address]
    return DataServiceAddress(_checked(environ[DATA_SERVICE], DATA_SERVICE), tuple(workers))


def _checked(address: str, what: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{what} is {address!r}; it must be host:port, e.g. node1:5050, or 'auto'.")
    return address


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
