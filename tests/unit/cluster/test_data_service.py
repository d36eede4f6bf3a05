"""Where a data service is: from the environment or by hand, and who of it does not answer."""

from __future__ import annotations

import socket

import pytest

from tfdist.cluster.data_service import DataServiceAddress, find_data_service
from tfdist.errors import ConfigError, DataError
from tfdist.launch.data_service import DataServiceLayout
from tfdist.launch.ports import find_free_ports


def test_what_the_launcher_says_is_found() -> None:
    layout = DataServiceLayout.on_hosts(["a", "b"], 2, 5000)
    found = find_data_service("auto", layout.variables())
    assert found == DataServiceAddress("a:5000", ("a:5001", "a:5002", "b:5001", "b:5002"))
    assert find_data_service("c:7", layout.variables()) == DataServiceAddress("c:7")


@pytest.mark.parametrize("address", ["host", "host:", ":80", "host:many", "host:70000", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="must be host:port"):
        find_data_service(address, {})


def test_no_service_in_the_environment() -> None:
    with pytest.raises(ConfigError, match="TFDIST_DATA_SERVICE is not set.*--data-workers"):
        find_data_service("auto", {})


def test_who_does_not_answer_is_named() -> None:
    free = find_free_ports(1)[0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"127.0.0.1:{server.getsockname()[1]}"
        address = DataServiceAddress(here, (here, f"127.0.0.1:{free}"))
        assert address.silent == [f"data worker 1 (127.0.0.1:{free})"]
        address.wait(0.1)
    with pytest.raises(DataError, match=f"answers at {here} within 0.1 s.*--data-workers"):
        address.wait(0.1)
