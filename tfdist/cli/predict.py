"""`tfdist predict`: lines of text in, lines of JSON out."""

from __future__ import annotations

import argparse

from tfdist.config.schema import StrategyConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--run", required=True, metavar="DIR", help="output folder of `tfdist train`")
    parser.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="one text a line; - is the standard input"
    )
    parser.add_argument("--strategy", default="auto", help="strategy by name (default: auto)")
    parser.add_argument("--devices", type=int, metavar="N", help="local devices for mirrored")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="global batch size (default: the run's own)"
    )


def run(args: argparse.Namespace) -> int:
    """Predicts; every worker of a cluster runs the same command, and the chief writes."""
    from tfdist.training.inference import predict  # noqa: PLC0415 (loads TensorFlow)

    predict(
        args.run,
        StrategyConfig(name=args.strategy, devices=args.devices),
        file=args.file,
        batch_size=args.batch_size,
    )
    return 0
