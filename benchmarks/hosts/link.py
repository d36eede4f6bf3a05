"""Two hosts and the slow link between them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hosts.proxy import Proxy, Throttle
from tfdist.launch.ports import find_free_ports

# A network that is reserved for benchmarks (RFC 2544), so that it is no one's.
_ADDRESSES = ("198.18.0.1", "198.18.0.2")
_PORT = 2222


@dataclass(frozen=True)
class Host:
    """Where a worker runs.

    Attributes:
        prefix: What comes before its command.
        tf_config: Its `TF_CONFIG`.
        counter: File that holds how many bytes the host has sent over the link.
    """

    prefix: tuple[str, ...]
    tf_config: str
    counter: str


def _tf_config(workers: list[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def why_not_permitted() -> str | None:
    """Returns why network namespaces cannot be made here, None if they can."""
    if lacking := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"{' and '.join(lacking)} not installed"
    name = f"tfdist-try-{os.getpid()}"
    done = subprocess.run(
        ["ip", "netns", "add", name], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        return done.stderr.strip() or "ip netns add failed"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=30, check=False)
    return None


@contextlib.contextmanager
def namespaces(rate_mbit: float) -> Iterator[list[Host]]:
    """Two network namespaces, joined by a pair of interfaces that send at most `rate_mbit` Mbit/s each."""
    tag = os.getpid() % 100000
    names, devices = [f"tfdist-{tag}-{i}" for i in (0, 1)], [f"tfd{tag}-{i}" for i in (0, 1)]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)

    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            devices[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            devices[1],
            "netns",
            names[1],
        )
        for name, device, address in zip(names, devices, _ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/30", "dev", device)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", device, "up")
            shape = (
                f"tc -n {name} qdisc add dev {device} root tbf rate {rate_mbit}mbit burst 128kb latency 400ms"
            )
            subprocess.run(shape.split(), check=True, capture_output=True, text=True, timeout=30)
        workers = [f"{address}:{_PORT}" for address in _ADDRESSES]
        yield [
            Host(
                ("ip", "netns", "exec", name),
                _tf_config(workers, index),
                f"/sys/class/net/{device}/statistics/tx_bytes",
            )
            for index, (name, device) in enumerate(zip(names, devices, strict=True))
        ]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=30, check=False)


@contextlib.contextmanager
def proxied(rate_mbit: float, folder: Path) -> Iterator[list[Host]]:
    """Two processes of this host, each of which reaches the other through a proxy of `rate_mbit` Mbit/s."""
    ports = find_free_ports(2)
    sent = [Throttle(rate_mbit, folder / f"sent-{index}") for index in (0, 1)]
    # What worker 1 says to worker 0 passes the first; the answers are worker 0's.
    proxies = [Proxy(ports[0], there=sent[1], back=sent[0]), Proxy(ports[1], there=sent[0], back=sent[1])]
    try:
        own = [f"127.0.0.1:{port}" for port in ports]
        theirs = [f"127.0.0.1:{proxy.port}" for proxy in proxies]
        clusters = [[own[0], theirs[1]], [theirs[0], own[1]]]
        yield [
            Host((), _tf_config(workers, index), str(sent[index].counter))
            for index, workers in enumerate(clusters)
        ]
    finally:
        for proxy in proxies:
            proxy.close()
