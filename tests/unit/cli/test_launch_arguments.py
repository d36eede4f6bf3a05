"""`tfdist launch --dry-run`: what each spelling of the flags would start."""

import json
import shlex
import sys

import pytest

from tfdist.cli.main import main


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Returns the exit code, addresses, worker indices, first command and messages of a dry run."""
    (tmp_path / "train.py").write_text("raise SystemExit('must not be started')")
    monkeypatch.chdir(tmp_path)

    def _dry_run(line):
        try:
            code = main(["launch", "--dry-run", *line.split()])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        workers = [shlex.split(row) for row in captured.out.splitlines() if row.startswith("TF_CONFIG=")]
        configs = [json.loads(words[0].removeprefix("TF_CONFIG=")) for words in workers]
        addresses = configs[0]["cluster"]["worker"] if configs else []
        indices = [config["task"]["index"] for config in configs]
        return code, addresses, indices, workers[0] if workers else [], captured.err

    return _dry_run


@pytest.mark.parametrize(
    "flags",
    [
        "--num-workers 2",
        "--nproc-per-node=2",
        "--nproc_per_node 2 --nnodes 1 --node_rank 0",
        "--num_processes 2",
        "--num-workers 2 --num-processes 2 --master-addr localhost",
    ],
)
def test_one_host(dry_run, flags):
    code, addresses, indices, words, _ = dry_run(f"{flags} train.py --epochs 3 --num-workers 9")
    assert (code, indices) == (0, [0, 1])
    assert [address.partition(":")[0] for address in addresses] == ["127.0.0.1"] * 2
    assert words[-6:] == [sys.executable, "train.py", "--epochs", "3", "--num-workers", "9"]


@pytest.mark.parametrize("flag", ["--port", "--master-port", "--master_port", "--main_process_port"])
def test_port(dry_run, flag):
    assert dry_run(f"--num-workers 2 {flag} 7000 train.py")[1] == ["127.0.0.1:7000", "127.0.0.1:7001"]


@pytest.mark.parametrize(
    ("flags", "indices"),
    [
        ("--hosts a:2,b:1", [0, 1, 2]),
        ("--hosts a:2,b:1 --host-index 1", [2]),
        ("--hosts a:2,b:1 --machine_rank 0 --num_machines 2 --num_processes 3 --main_process_ip a", [0, 1]),
    ],
)
def test_several_hosts_agree_on_ports_without_talking(dry_run, flags, indices):
    code, addresses, found, _, _ = dry_run(f"{flags} train.py")
    assert (code, addresses, found) == (0, ["a:12355", "a:12356", "b:12355"], indices)


def test_even_hosts(dry_run):
    expected = ["a:12355", "a:12356", "b:12355", "b:12356"]
    assert dry_run("--hosts a,b --nproc-per-node 2 --nnodes 2 train.py")[1] == expected
    assert dry_run("--hosts a,b --num_processes 4 train.py")[1] == expected


def test_devices_and_module(dry_run):
    _, _, _, words, _ = dry_run("--num-workers 1 --devices-per-worker 2 -m json.tool -h")
    assert "TFDIST_DEVICES_PER_WORKER=2" in words
    assert words[-4:] == [sys.executable, "-m", "json.tool", "-h"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train.py", "Give --num-workers N"),
        ("--num-workers 2 trian.py", "no such script: trian.py. Did you mean 'train.py'"),
        ("--num-workers 2 nowhere/train.py", "no such script"),
        ("--num-workers 2 -m tfdits.train", "no module named 'tfdits'"),
        ("--num-workers 0 train.py", "at least 1, got 0"),
        ("--num-workers two train.py", "invalid whole number value: 'two'"),
        ("--num-workers 2 --timeout 0 train.py", "more than 0 seconds"),
        ("--num-workers 2 --num-processes 3 train.py", "must be equal on one host"),
        ("--num-workers 2 --nnodes 2 --node-rank 1 --master-addr a train.py", "Give --hosts"),
        ("--hosts , train.py", "--hosts is empty"),
        ("--hosts a:2,b:2 --host-index 2 train.py", "from 0 to 1; got 2"),
        ("--hosts a:2,b:1 --num-workers 2 train.py", "has 3 workers on 2 hosts, but the run has 4"),
        ("--hosts a:3,b:1 --num-workers 2 train.py", "--num-workers is 2 for each host"),
        ("--hosts a:2,b:2 --nnodes 3 train.py", "--num-hosts is 3, but --hosts a:2,b:2 says 2"),
        ("--hosts a:2,b:2 --master-addr b train.py", "--master-addr is b"),
        ("--hosts a:2,a:2 train.py", "given twice"),
        ("--num-workers 3 --port 65534 train.py", "not within 1 to 65535"),
        ("--num-worker 2 train.py", "unrecognized arguments: --num-worker"),
    ],
)
def test_refused(dry_run, line, message):
    code, _, indices, _, err = dry_run(line)
    assert code in (1, 2)
    assert indices == []
    assert message in err


def test_host_index_is_required_to_start(capsys, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("")
    assert main(["launch", "--hosts", "a:1,b:1", str(script)]) == 2
    assert "got nothing" in capsys.readouterr().err


def test_a_module_that_is_installed_is_found_from_any_folder(dry_run):
    code, _, indices, words, error = dry_run("--num-workers 2 -m tfdist test")
    assert (code, indices) == (0, [0, 1]), error
    assert words[-3:] == ["-m", "tfdist", "test"]


def test_data_workers_of_several_hosts(dry_run):
    code, addresses, _, words, _ = dry_run("--hosts a:2,b:1 --port 7000 --data-workers 2 train.py")
    assert code == 0 and addresses == ["a:7000", "a:7001", "b:7000"]
    assert "TFDIST_DATA_SERVICE=a:7002" in words
    assert "TFDIST_DATA_WORKERS=a:7003,a:7004,b:7003,b:7004" in words


def test_data_workers_of_one_host(dry_run):
    code, addresses, _, words, _ = dry_run("--num-workers 2 --data-workers 1 train.py")
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    service = [variables["TFDIST_DATA_SERVICE"], variables["TFDIST_DATA_WORKERS"]]
    assert code == 0 and len({*addresses, *service}) == 4


def test_no_data_workers_are_no_variables(dry_run):
    assert not [word for word in dry_run("--num-workers 1 train.py")[3] if word.startswith("TFDIST_DATA_S")]
