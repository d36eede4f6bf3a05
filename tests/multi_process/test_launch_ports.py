import socket

import pytest

from tfdist.errors import ClusterError
from tfdist.launch.ports import check_ports_free, find_free_ports


def test_free_ports_are_different_and_usable():
    ports = find_free_ports(4)
    assert len(set(ports)) == 4
    check_ports_free(ports)


def test_port_in_use():
    with socket.socket() as sock:
        sock.bind(("", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} .*Address already in use.* --port"):
            check_ports_free([port])
