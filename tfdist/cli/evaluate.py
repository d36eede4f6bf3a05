"""`tfdist evaluate`: loss, accuracy and the table of classes of a trained model on a split."""

from __future__ import annotations

import argparse

from tfdist.cli.strategy_flags import add_run_flags, chosen_strategy, import_modules
from tfdist.cli.tensorflow_start import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    add_run_flags(parser)
    parser.add_argument("--data", metavar="PATH", help="other data than the run's own: as --data of train")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="(default: test)"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates; every worker of a cluster runs the same command."""
    load_tensorflow()
    from tfdist.training.inference import evaluate  # noqa: PLC0415

    import_modules(args.imports)
    evaluate(
        args.run, chosen_strategy(args), data_path=args.data, split=args.split, batch_size=args.batch_size
    )
    return 0
