"""`tfdist launch`: runs a script as several worker processes, on this host or its part of several."""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

from tfdist.cluster.hosts import DEFAULT_PORT, number_ports, parse_hosts
from tfdist.errors import ConfigError, did_you_mean
from tfdist.launch.data_service import DataServiceLayout
from tfdist.launch.gpus import list_gpus
from tfdist.launch.local import run_workers
from tfdist.launch.ports import check_ports_free, find_free_ports
from tfdist.launch.worker_plan import WorkerPlan, plan_workers

_LOCALHOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments; the spellings of torchrun and `accelerate launch` mean what they mean there."""
    parser.usage = "%(prog)s [options] [-m] SCRIPT [ARGS ...]"
    parser.epilog = (
        "Spellings of torchrun and accelerate are taken too. Every worker gets TF_CONFIG and its share of "
        "the cores. On several hosts, start the same command on each with its own --host-index."
    )
    add = parser.add_argument
    add(
        "--num-workers",
        "--nproc-per-node",
        "--nproc_per_node",
        type=_positive,
        metavar="N",
        help="worker processes on each host",
    )
    add(
        "--num-processes",
        "--num_processes",
        type=_positive,
        metavar="N",
        help="worker processes on all hosts together",
    )
    add("--devices-per-worker", type=_positive, metavar="N", help="devices that each worker trains on")
    add(
        "--data-workers",
        type=_positive,
        metavar="N",
        help="data workers on each host, which prepare batches, see tfdist.data.distribute",
    )
    _add_host_flags(parser)
    add("--timeout", type=_seconds, metavar="S", help="end the run after S seconds (default: no limit)")
    add(
        "--exit-timeout",
        type=_seconds,
        default=300.0,
        metavar="S",
        help="end workers that still run S seconds after the first has ended well (default: %(default)g)",
    )
    add("--log-dir", type=Path, metavar="DIR", help="also write each worker's output to DIR/worker_N.log")
    add("--dry-run", action="store_true", help="print every command with its TF_CONFIG and start nothing")
    add("-m", "--module", action="store_true", help="SCRIPT is a module, as for `python -m`")
    add("script", metavar="SCRIPT", help="script to run in every worker")
    add("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="its arguments")


def _add_host_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which hosts the run has, and on which ports they listen."""
    add = parser.add_argument
    add("--hosts", metavar="A:2,B:2", help="all hosts of the run, each with its number of workers")
    add(
        "--host-index",
        "--node-rank",
        "--node_rank",
        "--machine-rank",
        "--machine_rank",
        type=int,
        metavar="I",
        help="which of --hosts this is, from 0",
    )
    add(
        "--num-hosts",
        "--nnodes",
        "--num-machines",
        "--num_machines",
        type=_positive,
        metavar="N",
        help="number of hosts; checked against --hosts",
    )
    add(
        "--master-addr",
        "--master_addr",
        "--main-process-ip",
        "--main_process_ip",
        metavar="HOST",
        help="first host; checked against --hosts",
    )
    add(
        "--port",
        "--master-port",
        "--master_port",
        "--main-process-port",
        "--main_process_port",
        type=_positive,
        metavar="P",
        help=f"port of the first worker of each host, the others follow (default: free ports on one host, "
        f"{DEFAULT_PORT} on several)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    hosts = _hosts(args)
    command = _command(args)
    host_index = _host_index(args, hosts)
    addresses, data = _addresses(args, hosts)
    if args.dry_run:
        for index, (host, _) in enumerate(hosts):
            if host_index in (None, index):
                for plan in [*_data_plans(data, index), *_plan(args, hosts, index, addresses, command, data)]:
                    print(f"# {plan.name} on {host}\n{plan.to_shell()}")
        return 0
    assert host_index is not None  # for the type checker: `_host_index` requires it unless --dry-run
    plans = _plan(args, hosts, host_index, addresses, command, data)
    check_ports_free(int(addresses[plan.process_index].rpartition(":")[2]) for plan in plans)
    check_ports_free(() if data is None else data.ports_of(host_index))
    return run_workers(
        plans,
        data_service=_data_plans(data, host_index),
        timeout_s=args.timeout,
        exit_timeout_s=args.exit_timeout,
        log_dir=args.log_dir,
    )


def _addresses(
    args: argparse.Namespace, hosts: tuple[tuple[str, int], ...]
) -> tuple[tuple[str, ...], DataServiceLayout | None]:
    """Returns where the workers listen, and where the data service does, if there is one."""
    num_data = args.data_workers or 0
    if args.port is None and len(hosts) == 1:
        host, num_workers = hosts[0]
        ports = find_free_ports(num_workers + (num_data + 1 if num_data else 0))
        data = DataServiceLayout.on_one_host(host, ports[num_workers:]) if num_data else None
        return tuple(f"{host}:{port}" for port in ports[:num_workers]), data
    first = args.port or DEFAULT_PORT
    after = first + max(slots for _, slots in hosts)
    names = [host for host, _ in hosts]
    data = DataServiceLayout.on_hosts(names, num_data, after) if num_data else None
    return number_ports(hosts, first, "--port"), data


def _data_plans(data: DataServiceLayout | None, host_index: int) -> tuple[WorkerPlan, ...]:
    return () if data is None else data.plans(host_index, num_cpus=_num_cpus(), environ=os.environ)


def _plan(
    args: argparse.Namespace,
    hosts: tuple[tuple[str, int], ...],
    host_index: int,
    addresses: tuple[str, ...],
    command: tuple[str, ...],
    data: DataServiceLayout | None,
) -> tuple[WorkerPlan, ...]:
    first = sum(slots for _, slots in hosts[:host_index])
    plans = plan_workers(
        addresses,
        range(first, first + hosts[host_index][1]),
        command,
        num_cpus=_num_cpus(),
        environ=os.environ,
        # A dry run may show the commands of all hosts, and the GPUs of other hosts are not known here.
        gpus=list_gpus(os.environ) if len(hosts) == 1 or args.host_index is not None else (),
        devices_per_worker=args.devices_per_worker,
    )
    if data is None:
        return plans
    return tuple(replace(plan, env={**plan.env, **data.variables()}) for plan in plans)


def _hosts(args: argparse.Namespace) -> tuple[tuple[str, int], ...]:
    """Returns the hosts of the run with their numbers of workers."""
    if args.hosts is None:
        return _only_host(args)
    num_hosts = len([item for item in args.hosts.split(",") if item.strip()])
    total = args.num_processes
    if total is None and args.num_workers is not None:
        total = args.num_workers * num_hosts
    hosts = parse_hosts(args.hosts, "--hosts", total)
    if not hosts:
        raise ConfigError("--hosts is empty. Write e.g. --hosts node1:2,node2:2.")
    for given, actual, flag in (
        (args.num_hosts, len(hosts), "--num-hosts"),
        (args.master_addr, hosts[0][0], "--master-addr"),
    ):
        if given not in (None, actual):
            raise ConfigError(f"{flag} is {given}, but --hosts {args.hosts} says {actual}. Leave {flag} out.")
    if args.num_workers is not None and any(slots != args.num_workers for _, slots in hosts):
        raise ConfigError(
            f"--num-workers is {args.num_workers} for each host, but --hosts {args.hosts} says otherwise. "
            "Leave --num-workers out."
        )
    return hosts


def _only_host(args: argparse.Namespace) -> tuple[tuple[str, int], ...]:
    if (args.num_hosts or 1) > 1 or args.host_index not in (None, 0):
        raise ConfigError(
            "a run on several hosts needs all their names, as TensorFlow connects every worker with every "
            "other and --master-addr names only the first. Give --hosts node1:2,node2:2 and --host-index."
        )
    num_workers = args.num_workers or args.num_processes
    if num_workers is None:
        raise ConfigError("how many workers? Give --num-workers N, or --hosts with a number for each host.")
    if args.num_processes not in (None, num_workers):
        raise ConfigError(
            f"--num-workers is {num_workers} and --num-processes {args.num_processes}, which must be equal "
            "on one host. Leave one of them out."
        )
    return ((_LOCALHOST, num_workers),)


def _host_index(args: argparse.Namespace, hosts: tuple[tuple[str, int], ...]) -> int | None:
    """Returns which host this is; None means all of them, which only --dry-run allows."""
    index: int | None = args.host_index
    if index is None and len(hosts) == 1:
        return 0
    if index is None and args.dry_run:
        return None
    if index is None or not 0 <= index < len(hosts):
        raise ConfigError(
            f"--host-index must say which of the {len(hosts)} hosts this is, from 0 to {len(hosts) - 1}; "
            f"got {'nothing' if index is None else index}."
        )
    return index


def _command(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the command of a worker.

    Raises:
        ConfigError: there is no such script or module.
    """
    if args.module:
        # The module is looked up and not imported, because the launcher loads no TensorFlow.
        top = args.script.partition(".")[0]
        # The workers have the working folder on their path. Everything besides, editable installs too, is found there
        # as it is here.
        known = importlib.machinery.PathFinder.find_spec(top, [""]) or importlib.util.find_spec(top)
        if not known:
            raise ConfigError(
                f"no module named {top!r} on this Python's path. Install it, or check PYTHONPATH."
            )
        return (sys.executable, "-m", args.script, *args.arguments)
    script = Path(args.script)
    if not script.exists():
        folder = script.parent
        names = [path.name for path in folder.glob("*.py")] if folder.is_dir() else []
        hint = did_you_mean(script.name, names)
        raise ConfigError(f"no such script: {script}.{hint} Use -m for a module.")
    return (sys.executable, str(script), *args.arguments)


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return value


# If a text is no such value, argparse puts the name of the type into its message.
_positive.__name__ = "whole number"


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, got {text}")
    return value


_seconds.__name__ = "number of seconds"
