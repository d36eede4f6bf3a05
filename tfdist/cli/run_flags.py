"""The flags of commands that use a trained model."""

from __future__ import annotations

import argparse

from tfdist.cli.strategy_flags import add_strategy_flags


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which run's model is used, under which strategy, and with which batch size."""
    parser.add_argument("--run", required=True, metavar="DIR", help="output folder of `tfdist train`")
    add_strategy_flags(parser)
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="global batch size (default: the run's own)"
    )
