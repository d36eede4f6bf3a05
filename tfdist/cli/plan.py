"""`tfdist plan`: which variable of a model a mesh puts where, and how many bytes each device holds."""

from __future__ import annotations

import argparse
from typing import Any

from tfdist.cli.strategy_flags import add_mesh_flags, given_options
from tfdist.cli.tensorflow_start import load_tensorflow
from tfdist.errors import ConfigError
from tfdist.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="mlp|bert|bigru|minilm|PATH",
        help="a model by name, or a folder in the Hugging Face layout; its weights are not read",
    )
    add_mesh_flags(parser)
    parser.add_argument("--picture", metavar="FILE", help="draw it too, as SVG")
    parser.add_argument(
        "--optimizer", default="adamw", metavar="NAME", help="a Keras optimizer, or none (default: adamw)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report; needs neither the devices of the mesh nor memory for the model."""
    load_tensorflow()
    import keras  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from tfdist.planner import plan_sharding  # noqa: PLC0415
    from tfdist.strategies.factory import read_options  # noqa: PLC0415

    optimizer = None
    if args.optimizer != "none":
        try:
            optimizer = keras.optimizers.get(args.optimizer)
        except ValueError:
            raise ConfigError(
                f"--optimizer {args.optimizer}: Keras has no such optimizer. Give one as adamw, sgd or lion, or none."
            ) from None
    mesh = read_options("tfdist plan", plan_sharding, given_options(args))
    report = plan_sharding(_builder(args.model), optimizer=optimizer, **mesh)
    Console(highlight=False).print(report)
    if args.picture:
        write_text(args.picture, report.to_svg())
    return 0


def _builder(name: str) -> Any:
    from tfdist.models import BertConfig, build_bert, build_bigru, build_mlp, resolve_model_folder  # noqa: PLC0415

    named = {"mlp": build_mlp, "bigru": build_bigru, "bert": lambda: build_bert(BertConfig())}
    if name in named:
        return named[name]
    config = BertConfig.from_file(resolve_model_folder(name) / "config.json")
    return lambda: build_bert(config)
