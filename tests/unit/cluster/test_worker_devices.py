import pytest

from tfdist.cluster.worker_devices import DEVICES_PER_WORKER, devices_per_worker
from tfdist.errors import ConfigError


def test_the_number_is_read():
    assert devices_per_worker({}) is None
    assert devices_per_worker({DEVICES_PER_WORKER: " 3 "}) == 3


@pytest.mark.parametrize("text", ["x", "", "0", "-1", "1.5", "²"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ConfigError, match="TFDIST_DEVICES_PER_WORKER=.*whole number of at least 1.*unset it"):
        devices_per_worker({DEVICES_PER_WORKER: text})
