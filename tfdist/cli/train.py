"""`tfdist train`: fine-tunes a model as a configuration file and flags say."""

from __future__ import annotations

import argparse
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tfdist.cli.strategy_flags import add_strategy_flags, given_options, import_modules
from tfdist.cli.tensorflow_start import load_tensorflow
from tfdist.config import schema
from tfdist.config.loader import load_config

# Flag -> key of the configuration. The strategy has flags of its own, and --set reaches all other keys.
FLAGS = {
    "--task": "task",
    "--data": "data.path",
    "--format": "data.format",
    "--text-column": "data.text_column",
    "--label-column": "data.label_column",
    "--max-length": "data.max_length",
    "--cache-dir": "data.cache_dir",
    "--data-service": "data.service",
    "--model": "model.name",
    "--dropout": "model.dropout",
    "--learning-rate": "optimizer.learning_rate",
    "--schedule": "optimizer.schedule",
    "--epochs": "training.epochs",
    "--max-steps": "training.max_steps",
    "--global-batch-size": "training.global_batch_size",
    "--precision": "training.precision",
    "--patience": "training.patience",
    "--seed": "training.seed",
    "--output": "output",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, `--set` and the flags; help texts, types and choices come from the schema."""
    parser.add_argument("--config", metavar="FILE", help="YAML file with the configuration")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="set any key of the configuration, e.g. optimizer.learning_rate=3e-5; may be repeated",
    )
    for flag, key in FLAGS.items():
        add_flag(parser, flag, key)
    add_strategy_flags(parser)


def add_flag(parser: argparse.ArgumentParser, flag: str, key: str) -> None:
    """Adds the flag for one key of the configuration; its value is None if it is not given."""
    section, _, name = key.rpartition(".")
    owner: Any = get_type_hints(schema.RunConfig)[section] if section else schema.RunConfig
    field = owner.__dataclass_fields__[name]
    hint = get_type_hints(owner)[name]
    if get_origin(hint) is Literal:
        options: dict[str, Any] = {"choices": get_args(hint)}
    else:
        # Both `int` and `int | None` give `int`.
        options = {"type": next(iter(get_args(hint)), hint), "metavar": name.upper()}
    default = "" if field.default in (None, "") else f" (default: {field.default})"
    parser.add_argument(flag, dest=key, default=None, help=field.metadata["help"] + default, **options)


def run(args: argparse.Namespace) -> int:
    """Trains; the output folder then holds logs, the best model, metrics and SavedModels."""
    flags = vars(args)
    values = {key: flags[key] for key in FLAGS.values()} | {"strategy.name": args.strategy}
    options = {f"strategy.{option}": given for option, given in given_options(args).items()}
    config = load_config(args.config, args.overrides, values | options)
    load_tensorflow()
    from tfdist.training.run import train  # noqa: PLC0415

    import_modules(args.imports)
    train(config)
    return 0
