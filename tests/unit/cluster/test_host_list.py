import pytest

from tfdist.cluster.host_list import expand_host_list, expand_task_counts
from tfdist.errors import ClusterError


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", "n1"),
        ("n[1-2],m5,o[3-4,6,7-9]", "n1 n2 m5 o3 o4 o6 o7 o8 o9"),
        ("n[9-10,12]-ib", "n9-ib n10-ib n12-ib"),
        ("n[08-10]", "n08 n09 n10"),
        ("r[1-2]n[01-02].site", "r1n01.site r1n02.site r2n01.site r2n02.site"),
        ("n[1,a[3-4]b]", "n1 na3b na4b"),
        ("b,a", "b a"),
    ],
)
def test_order_is_kept(text, hosts):
    assert expand_host_list(text) == tuple(hosts.split())


@pytest.mark.parametrize("text", ["", "n[1-2", "n1-2]", "n[2-1]", "n[]", "a,,b", "a b"])
def test_malformed(text):
    with pytest.raises(ClusterError, match="the host list"):
        expand_host_list(text)


def test_task_counts():
    assert expand_task_counts("2(x3),1") == (2, 2, 2, 1)
    with pytest.raises(ClusterError, match="malformed at 'x'"):
        expand_task_counts("2,x")
