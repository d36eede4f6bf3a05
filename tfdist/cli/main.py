"""The `tfdist` command. Each subcommand is a module that is loaded only when it is chosen."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

import tfdist
from tfdist.errors import TfdistError, did_you_mean, explain_missing
from tfdist.launch.interrupt import interruptible


class Command(Protocol):
    """What the module of a subcommand offers."""

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Adds the command's arguments; loads no TensorFlow."""

    def run(self, args: argparse.Namespace, /) -> int:
        """Runs the command and returns its exit code."""


# Name, help and module of each command.
COMMANDS = (
    ("train", "fine-tune a model and write logs, the best model and a SavedModel", "tfdist.cli.train"),
    ("evaluate", "measure a trained model on a split", "tfdist.cli.evaluate"),
    ("predict", "label lines of text with a trained model", "tfdist.cli.predict"),
    ("launch", "run a script as several worker processes", "tfdist.cli.launch"),
    ("data-service", "run a process of a tf.data service by hand", "tfdist.cli.data_service"),
    ("plan", "show what a mesh puts where, without training", "tfdist.cli.plan"),
    ("test", "train a small model here and compare it with one device", "tfdist.cli.test"),
    ("bench", "measure what a step costs here, beside plain Keras and one device", "tfdist.cli.bench"),
    ("doctor", "show versions, devices, the cluster and what of Keras is patched", "tfdist.cli.doctor"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: arguments without the program's name; by default the process's own.

    Returns:
        The exit code: 0, the command's own, 2 for wrong usage, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tfdist").setLevel(logging.INFO)
    try:
        with interruptible():
            return _run(arguments)
    except ModuleNotFoundError as error:
        explained = explain_missing(error)
        if explained is None:
            raise
        print(f"error: {explained}", file=sys.stderr)
        return explained.exit_code
    except TfdistError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # CPython kills itself by SIGINT at its end, whatever the exit code, if the interrupt came inside `exec` of a
        # text, as `dataclasses` calls it while TensorFlow is loaded. The next text that is run takes that back.
        exec("")
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output, such as `head`, has gone. Python must not flush anything to it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str]) -> int:
    modules = {name: module for name, _, module in COMMANDS}
    if not arguments or arguments[0] not in modules:
        return _answer_without_command(arguments, modules)
    name = arguments[0]
    command = cast(Command, importlib.import_module(modules[name]))
    about = next(help for known, help, _ in COMMANDS if known == name)
    parser = argparse.ArgumentParser(
        prog=f"tfdist {name}",
        description=f"{about[0].upper()}{about[1:]}.",
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    code = command.run(parser.parse_args(arguments[1:]))
    sys.stdout.flush()  # here, where a broken pipe is still caught
    return code


def _answer_without_command(arguments: list[str], modules: dict[str, str]) -> int:
    listing = "\n".join(f"  {name:<14}{help}" for name, help, _ in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="tfdist",
        usage="tfdist COMMAND [options]",
        description=tfdist.__doc__,
        epilog=f"commands:\n{listing}\n\n`tfdist COMMAND --help` shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tfdist {tfdist.__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    known, unknown = parser.parse_known_args(arguments)
    if known.command is None and not unknown:
        parser.print_help()
        return 2
    given = known.command or unknown[0]
    parser.error(f"unknown command {given!r}; allowed: {', '.join(modules)}.{did_you_mean(given, modules)}")


if __name__ == "__main__":
    sys.exit(main())
