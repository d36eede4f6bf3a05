"""`tfdist evaluate`: loss, accuracy and the table of classes of a trained model on a split."""

from __future__ import annotations

import argparse

from tfdist.config.schema import StrategyConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--run", required=True, metavar="DIR", help="output folder of `tfdist train`")
    parser.add_argument("--data", metavar="PATH", help="other data than the run's own: as --data of train")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="(default: test)"
    )
    parser.add_argument("--strategy", default="auto", help="strategy by name (default: auto)")
    parser.add_argument("--devices", type=int, metavar="N", help="local devices for mirrored")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="global batch size (default: the run's own)"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates; every worker of a cluster runs the same command."""
    from tfdist.training.inference import evaluate  # noqa: PLC0415 (loads TensorFlow)

    evaluate(
        args.run,
        StrategyConfig(name=args.strategy, devices=args.devices),
        data_path=args.data,
        split=args.split,
        batch_size=args.batch_size,
    )
    return 0
