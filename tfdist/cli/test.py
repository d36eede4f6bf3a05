"""`tfdist test`: does a strategy give the one-device result here?"""

from __future__ import annotations

import argparse

from tfdist.cli.check_script import check_script
from tfdist.cli.strategy_flags import add_strategy_flags, chosen_strategy, import_modules
from tfdist.cli.tensorflow_start import load_tensorflow
from tfdist.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_strategy_flags(parser)
    parser.add_argument(
        "--script",
        metavar="FILE",
        help="run this training script, which makes its own strategy, up to its self check, and stop it there",
    )
    parser.add_argument("arguments", metavar="ARGS", nargs="*", help="arguments of the script, after --")


def run(args: argparse.Namespace) -> int:
    """Tests; every process of a cluster runs the same command, for example under `tfdist launch -m tfdist test`."""
    if args.script is not None:
        return check_script(args.script, args.arguments)
    if args.arguments:
        raise ConfigError(f"{args.arguments} are arguments of no script. Give the script with --script FILE.")
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    load_tensorflow()
    from tfdist.parity.self_test import self_test  # noqa: PLC0415
    from tfdist.process import is_chief, num_processes  # noqa: PLC0415
    from tfdist.strategies.factory import create_strategy  # noqa: PLC0415

    import_modules(args.imports)
    chosen = chosen_strategy(args)
    strategy = create_strategy(chosen.name, **chosen.options)
    result = self_test(strategy)
    if is_chief():
        table = Table(
            title=f"{chosen.name}: {strategy.num_replicas_in_sync} replica(s) in {num_processes()} process(es)"
        )
        table.add_column("compared with one device")
        table.add_column("relative difference", justify="right")
        for name, difference in result.differences.items():
            table.add_row(name, f"{difference:.1e}", style=None if difference <= result.tolerance else "red")
        console = Console()
        console.print(table)
        verdict = "equals one device" if result.passed else "DIFFERS from one device"
        console.print(f"{chosen.name} {verdict} (tolerance {result.tolerance:g})")
    return 0 if result.passed else 1
