"""Detection on recorded environments."""

import logging

import pytest

from tfdist.cluster import detect_cluster
from tfdist.cluster.hosts import number_ports, parse_hosts
from tfdist.errors import ClusterError
from tfdist.log import inform_once, warn_once

SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NODELIST": "n[9-10]-ib",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
}
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_NAMESPACE": "3194290177",
    "PMIX_RANK": "1",
}
INTEL_MPI = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "0"}
INDEXED_JOB = {
    "JOB_COMPLETION_INDEX": "2",
    "HOSTNAME": "bert-2",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "TFDIST_NUM_PROCESSES": "3",
    "TFDIST_SERVICE": "bert-svc",
}
PYTORCH_JOB = {
    "RANK": "2",
    "WORLD_SIZE": "3",
    "MASTER_ADDR": "bert-master-0",
    "MASTER_PORT": "23456",
    "HOSTNAME": "bert-worker-1",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
}
KERAS = {
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "10.0.0.1:1234,10.0.0.2:2345",
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    "KERAS_DISTRIBUTION_PROCESS_ID": "1",
}


def refused(env):
    with pytest.raises(ClusterError) as info:
        detect_cluster(env)
    return str(info.value)


def hosts_of(cluster):
    return [address.rpartition(":")[0] for address in cluster.workers]


def ports_of(cluster):
    return [int(address.rpartition(":")[2]) for address in cluster.workers]


def test_nothing_is_one_process():
    assert detect_cluster({"HOME": "/root", "HOSTNAME": "laptop"}) is None


@pytest.mark.parametrize(
    ("env", "size"),
    [
        (SRUN, "SLURM_STEP_NUM_TASKS"),
        (TORCHRUN, "WORLD_SIZE"),
        (OPEN_MPI, "OMPI_COMM_WORLD_SIZE"),
        (INTEL_MPI, "PMI_SIZE"),
        (INDEXED_JOB, "TFDIST_NUM_PROCESSES"),
        (PYTORCH_JOB, "WORLD_SIZE"),
        (KERAS, "KERAS_DISTRIBUTION_NUM_PROCESSES"),
    ],
)
def test_one_process_is_no_cluster(env, size):
    ranks = dict.fromkeys(("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"), "0")
    assert detect_cluster({**env, **{k: v for k, v in ranks.items() if k in env}, size: "1"}) is None


def test_slurm_keeps_the_order_of_ranks_on_cpu_nodes():
    env = dict(SRUN)  # no CUDA_VISIBLE_DEVICES, no GPU variables, no nvidia-smi
    cluster = detect_cluster(env)
    assert hosts_of(cluster) == ["n9-ib", "n9-ib", "n10-ib", "n10-ib"]
    first = ports_of(cluster)[0]
    assert ports_of(cluster) == [first, first + 1, first, first + 1]
    assert (cluster.process_index, cluster.source) == (2, "SLURM")
    assert env == SRUN


def test_slurm_port_belongs_to_the_job():
    ports = {ports_of(detect_cluster({**SRUN, "SLURM_JOB_ID": str(job)}))[0] for job in range(4700, 4720)}
    assert len(ports) == 20
    assert all(12000 <= port < 32768 for port in ports)
    assert min(abs(a - b) for a in ports for b in ports if a != b) >= 32
    assert ports_of(detect_cluster({**SRUN, "TFDIST_PORT": "5000"}))[0] == 5000


def test_slurm_cyclic_and_plane():
    cyclic = {**SRUN, "SLURM_DISTRIBUTION": "cyclic:block", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}
    assert hosts_of(detect_cluster(cyclic)) == ["n9-ib", "n10-ib", "n9-ib", "n10-ib"]
    plane = {
        **SRUN,
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_STEP_TASKS_PER_NODE": "4,2",
        "SLURM_DISTRIBUTION": "plane=2",
        "SLURM_DIST_PLANESIZE": "2",
    }
    assert hosts_of(detect_cluster(plane)) == ["n9-ib"] * 2 + ["n10-ib"] * 2 + ["n9-ib"] * 2


def test_slurm_refuses_what_it_cannot_place():
    assert "srun --distribution=block" in refused({**SRUN, "SLURM_DISTRIBUTION": "arbitrary"})
    assert "SLURM_NODEID=0, where 1 was expected" in refused({**SRUN, "SLURM_NODEID": "0"})
    assert "does not place 4 tasks on 2 nodes" in refused({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2"})
    assert "SLURM_PROCID must be" in refused({**SRUN, "SLURM_PROCID": "4"})
    assert "host list" in refused({**SRUN, "SLURM_STEP_NODELIST": "n[1-"})
    uneven = {k: v for k, v in SRUN.items() if k != "SLURM_STEP_TASKS_PER_NODE"} | {
        "SLURM_STEP_NUM_TASKS": "3"
    }
    assert "does not place 3 tasks on 2 nodes" in refused(uneven)


def test_slurm_even_share_where_the_counts_are_missing():
    env = {k: v for k, v in SRUN.items() if k != "SLURM_STEP_TASKS_PER_NODE"}
    assert hosts_of(detect_cluster(env)) == ["n9-ib", "n9-ib", "n10-ib", "n10-ib"]


def test_slurm_batch_script_outside_srun_trains_alone(caplog):
    batch = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n[1-2]"}
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "tfdist"):
        assert detect_cluster(batch) is None
        assert detect_cluster(batch) is None
    assert caplog.text.count("not started by srun") == 1


def test_torchrun_on_one_host():
    cluster = detect_cluster(TORCHRUN)
    assert cluster.workers == tuple(f"127.0.0.1:{29501 + i}" for i in range(4))
    assert cluster.process_index == 1


def test_ranks_with_a_loopback_master_are_on_one_host():
    cluster = detect_cluster(
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "6000"}
    )
    assert cluster.workers == ("127.0.0.1:6001", "127.0.0.1:6002")


def test_torchrun_on_several_hosts_needs_their_names():
    env = {**TORCHRUN, "LOCAL_WORLD_SIZE": "2", "RANK": "3"}
    message = refused(env)
    assert "TFDIST_HOSTS" in message
    assert "tfdist launch --hosts" in message
    cluster = detect_cluster({**env, "TFDIST_HOSTS": "node1,node2"})
    assert hosts_of(cluster) == ["node1", "node1", "node2", "node2"]
    assert "has 3 workers on 2 hosts, but the run has 4" in refused(
        {**env, "TFDIST_HOSTS": "node1:2,node2:1"}
    )
    assert "do not divide" in refused({**env, "LOCAL_WORLD_SIZE": "3"})


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "4"), ("RANK", "one"), ("WORLD_SIZE", "0"), ("MASTER_PORT", "x")]
)
def test_torchrun_malformed(name, value):
    assert f"variable {name} must be a whole number" in refused({**TORCHRUN, name: value})


def test_ports_above_the_last_one():
    assert "not within 1 to 65535" in refused({**TORCHRUN, "MASTER_PORT": "65533"})


def test_open_mpi():
    cluster = detect_cluster(OPEN_MPI)
    assert (hosts_of(cluster), cluster.process_index) == (["127.0.0.1"] * 2, 1)
    assert ports_of(cluster)[1] == ports_of(cluster)[0] + 1
    spread = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "MASTER_ADDR": "n1"}
    assert "MASTER_ADDR is only that of rank 0" in refused(spread)
    assert hosts_of(detect_cluster({**spread, "TFDIST_HOSTS": "n1:1,n2:1"})) == ["n1", "n2"]


def test_pmi():
    assert detect_cluster(INTEL_MPI).source == "PMI"
    assert "TFDIST_HOSTS" in refused({"PMI_RANK": "0", "PMI_SIZE": "2"})


def test_kubernetes_indexed_job():
    cluster = detect_cluster(INDEXED_JOB)
    assert cluster.workers == tuple(f"bert-{i}.bert-svc:12355" for i in range(3))
    assert cluster.process_index == 2
    assert ports_of(detect_cluster({**INDEXED_JOB, "TFDIST_PORT": "2222"})) == [2222] * 3
    assert "does not end in '-2'" in refused({**INDEXED_JOB, "HOSTNAME": "other"})
    assert "TFDIST_SERVICE is not set" in refused({**INDEXED_JOB, "TFDIST_SERVICE": ""})
    assert "TFDIST_NUM_PROCESSES=1 if each pod" in refused({"JOB_COMPLETION_INDEX": "0", "HOSTNAME": "a-0"})


def test_kubeflow_pytorch_job():
    worker = detect_cluster(PYTORCH_JOB)
    assert hosts_of(worker) == ["bert-master-0", "bert-worker-0", "bert-worker-1"]
    assert (worker.process_index, worker.source) == (2, "Kubeflow PyTorchJob")
    # The operator gives the master its own address as localhost.
    master = {**PYTORCH_JOB, "RANK": "0", "HOSTNAME": "bert-master-0", "MASTER_ADDR": "localhost"}
    assert detect_cluster(master).workers == worker.workers


def test_keras_distribution():
    cluster = detect_cluster(KERAS)
    assert (cluster.workers, cluster.process_index) == (("10.0.0.1:1234", "10.0.0.2:2345"), 1)
    coordinator_only = {**KERAS, "KERAS_DISTRIBUTION_JOB_ADDRESSES": "10.0.0.1:1234"}
    assert "has 1 addresses" in refused(coordinator_only)
    assert "PROCESS_ID must be" in refused({**KERAS, "KERAS_DISTRIBUTION_PROCESS_ID": ""})


def test_the_explicit_then_the_innermost_environment_wins(caplog):
    tf_config = {
        "TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    }
    inform_once.cache_clear()
    with caplog.at_level(logging.INFO, "tfdist"):
        assert detect_cluster({**SRUN, **TORCHRUN, **tf_config}).source == "TF_CONFIG"
    assert "from TF_CONFIG (not used: RANK/WORLD_SIZE, SLURM)" in caplog.text
    assert detect_cluster({**SRUN, **TORCHRUN}).source == "RANK/WORLD_SIZE"
    assert detect_cluster({**SRUN, **OPEN_MPI}).source == "Open MPI"
    # srun --mpi=pmi2 sets PMI's variables beside its own, which say more.
    assert detect_cluster({**SRUN, "PMI_RANK": "2", "PMI_SIZE": "4"}).source == "SLURM"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:2,a:2", "given twice"),
        ("a:0", "is no host"),
        ("a:b", "is no host"),
        ("a/b", "is no address"),
        ("", "0 workers"),
    ],
)
def test_refused_hosts(text, message):
    with pytest.raises(ClusterError, match=message):
        parse_hosts(text, "--hosts", 4)


def test_hosts_and_ports():
    assert parse_hosts("a, [fe80::1]:2", "--hosts") == (("a", 1), ("[fe80::1]", 2))
    assert number_ports((("a", 1), ("[fe80::1]", 2)), 7, "--hosts") == ("a:7", "[fe80::1]:7", "[fe80::1]:8")
