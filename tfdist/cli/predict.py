"""`tfdist predict`: lines of text in, lines of JSON out."""

from __future__ import annotations

import argparse

from tfdist.cli.strategy_flags import add_run_flags, chosen_strategy, import_modules
from tfdist.cli.tensorflow_start import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_run_flags(parser)
    parser.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="one text a line; - is the standard input"
    )


def run(args: argparse.Namespace) -> int:
    """Predicts; every worker of a cluster runs the same command, and the chief writes."""
    load_tensorflow()
    from tfdist.training.inference import predict  # noqa: PLC0415

    import_modules(args.imports)
    predict(args.run, chosen_strategy(args), file=args.file, batch_size=args.batch_size)
    return 0
