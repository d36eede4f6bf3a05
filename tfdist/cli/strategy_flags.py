"""The flags that choose a strategy and its options, the same for every command that has them."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from tfdist.config.schema import Given, StrategyConfig
from tfdist.errors import ConfigError

# Flag -> the option, the placeholder of its value in the help (None for a flag that has no value and means true), and
# the help.
_FLAGS = {
    "--devices": (
        "devices",
        "N",
        "local devices for mirrored, a count or names as GPU:0,GPU:1 (default: all)",
    ),
    "--devices-per-worker": ("devices_per_worker", "N", "devices of each worker for multi_worker_mirrored"),
    "--timeout": ("timeout_s", "S", "seconds that the workers wait for each other"),
}
_MESH_FLAGS = {
    "--mesh": ("mesh", "AXES", "axes of the mesh and their sizes, as batch=2,model=2"),
    "--layout-map": ("layout_map", "auto|FILE", "for mesh: auto, or a YAML file of rules (default: auto)"),
    "--shard-optimizer": (
        "shard_optimizer",
        None,
        "for mesh: split the optimizer's state over the batch axis",
    ),
    "--shard-weights": ("shard_weights", None, "for mesh: split weights over the batch axis too"),
}


class _Option(argparse.Action):
    """Keeps an option of the strategy as text, together with the flag that gave it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        flag = option_string or self.option_strings[0]
        option, text = self.const, "true" if self.nargs == 0 else str(values)
        if option is None:
            option, separator, text = text.partition("=")
            if not separator or not option:
                parser.error(f"{flag} takes KEY=VALUE, got {values!r}. Write e.g. {flag} random_by_row=true.")
        namespace.strategy_options = {**given_options(namespace), option.strip(): Given(text.strip(), flag)}


def add_strategy_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose a strategy, its options, and the modules to import for it."""
    parser.add_argument("--strategy", help="strategy by name (default: auto)")
    for flag, (option, metavar, about) in {**_FLAGS, **_MESH_FLAGS}.items():
        _add(parser, flag, option, metavar, about)
    _add(
        parser,
        "--strategy-option",
        None,
        "KEY=VALUE",
        "any option of the strategy, e.g. random_by_row=true; may be repeated",
    )
    parser.add_argument(
        "--import",
        metavar="MODULE",
        action="append",
        default=[],
        dest="imports",
        help="import a module first, e.g. one that calls tfdist.register_strategy; may be repeated",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which run's model is used, under which strategy, and with which batch size."""
    parser.add_argument("--run", required=True, metavar="DIR", help="output folder of `tfdist train`")
    add_strategy_flags(parser)
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="global batch size (default: the run's own)"
    )


def add_mesh_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that describe a mesh; `--mesh` itself is required."""
    for flag, (option, metavar, about) in _MESH_FLAGS.items():
        _add(parser, flag, option, metavar, about.removeprefix("for mesh: "), required=flag == "--mesh")


def _add(
    parser: argparse.ArgumentParser,
    flag: str,
    option: str | None,
    metavar: str | None,
    about: str,
    required: bool = False,
) -> None:
    nargs = 0 if metavar is None else None
    parser.add_argument(
        flag,
        action=_Option,
        const=option,
        nargs=nargs,
        metavar=metavar,
        help=about,
        required=required,
        dest="strategy_options",
        default=argparse.SUPPRESS,
    )


def given_options(args: argparse.Namespace) -> dict[str, Given]:
    """Returns the options of the strategy that flags gave."""
    return dict(getattr(args, "strategy_options", {}))


def chosen_strategy(args: argparse.Namespace) -> StrategyConfig:
    """Returns the strategy and options that the flags give; the strategy is `auto` if they name none."""
    return StrategyConfig(name=args.strategy or "auto", options=given_options(args))


def import_modules(names: Sequence[str]) -> None:
    """Imports the modules of `--import`. They may lie in the working folder, as those of `python -m` may.

    Raises:
        ConfigError: There is no such module.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(
                f"--import {name}: this is no name of a module; write it as my_package.my_module."
            )
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there and needs another one
            raise ConfigError(
                f"--import {name}: there is no module {error.name!r} in the working folder or on this Python's path. "
                "Name a module without .py, start the command where it lies, or set PYTHONPATH."
            ) from None
