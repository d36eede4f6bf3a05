"""`tfdist test`: does a strategy give the one-device result here?"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--strategy", default="auto", help="strategy by name (default: auto)")
    parser.add_argument("--devices", type=int, metavar="N", help="local devices for mirrored")
    parser.add_argument(
        "--devices-per-worker", type=int, metavar="N", help="devices of each worker for multi_worker_mirrored"
    )
    parser.add_argument("--mesh", metavar="AXES", help="axes and sizes for mesh, as batch=2,model=2")
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds that the workers wait for each other"
    )


def run(args: argparse.Namespace) -> int:
    """Tests; every process of a cluster runs the same command, for example under `tfdist launch -m tfdist test`."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from tfdist.parity.self_test import self_test  # noqa: PLC0415
    from tfdist.process import is_chief, num_processes  # noqa: PLC0415
    from tfdist.strategies.factory import create_strategy  # noqa: PLC0415 (loads TensorFlow)

    strategy = create_strategy(
        args.strategy,
        devices=args.devices,
        devices_per_worker=args.devices_per_worker,
        mesh=args.mesh,
        timeout_s=args.timeout,
    )
    result = self_test(strategy)
    if is_chief():
        table = Table(
            title=f"{args.strategy}: {strategy.num_replicas_in_sync} replica(s) in {num_processes()} process(es)"
        )
        table.add_column("compared with one device")
        table.add_column("relative difference", justify="right")
        for name, difference in result.differences.items():
            table.add_row(name, f"{difference:.1e}", style=None if difference <= result.tolerance else "red")
        console = Console()
        console.print(table)
        verdict = "equals one device" if result.passed else "DIFFERS from one device"
        console.print(f"{args.strategy} {verdict} (tolerance {result.tolerance:g})")
    return 0 if result.passed else 1
