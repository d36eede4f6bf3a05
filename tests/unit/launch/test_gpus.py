import pytest

from tfdist.errors import ClusterError
from tfdist.launch.gpus import list_gpus, share_gpus


def test_device_files_are_counted(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert list_gpus({}, tmp_path) == ("0", "1")
    assert list_gpus({}, tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("visible", "gpus"), [("4, 5", ("4", "5")), ("", ()), ("-1", ()), ("GPU-1f,-1,3", ("GPU-1f",))]
)
def test_visible_devices_win(tmp_path, visible, gpus):
    (tmp_path / "nvidia0").touch()
    assert list_gpus({"CUDA_VISIBLE_DEVICES": visible}, tmp_path) == gpus


def test_shares():
    four = ("0", "1", "2", "3")
    assert share_gpus(four, 2, None) == (("0", "1"), ("2", "3"))
    assert share_gpus(four, 2, 1) == (("0",), ("1",))
    assert share_gpus(four, 3, None) == (("0",), ("1",), ("2",))
    assert share_gpus((), 2, 4) == ((), ())


@pytest.mark.parametrize(("gpus", "num_local", "devices"), [(("0",), 2, None), (("0", "1"), 2, 2)])
def test_too_few(gpus, num_local, devices):
    with pytest.raises(ClusterError, match="CUDA_VISIBLE_DEVICES=-1"):
        share_gpus(gpus, num_local, devices)
