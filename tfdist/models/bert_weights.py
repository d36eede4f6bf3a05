"""Pretrained BERT weights from a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdist.errors import ModelError
from tfdist.log import LOGGER
from tfdist.models.bert import build_bert
from tfdist.models.bert_config import BertConfig
from tfdist.models.extras import require

# Tensors that a checkpoint may have but the encoder does not use: index buffers, and heads of other tasks.
_UNUSED = re.compile(r"embeddings\.(position|token_type)_ids$|(cls|classifier|qa_outputs)\.")


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """One tensor of the file, the shape it must have there, and the variable that takes it."""

    name: str
    shape: tuple[int, ...]
    path: str
    transpose: bool = False


def _linear(name: str, path: str, num_outputs: int, num_inputs: int) -> Iterator[_Tensor]:
    # PyTorch stores (outputs, inputs), and Keras (inputs, outputs), in which one of both may be divided into heads.
    yield _Tensor(f"{name}.weight", (num_outputs, num_inputs), f"{path}/kernel", transpose=True)
    yield _Tensor(f"{name}.bias", (num_outputs,), f"{path}/bias")


def _layer_norm(name: str, path: str, size: int) -> Iterator[_Tensor]:
    yield _Tensor(f"{name}.weight", (size,), f"{path}/gamma")
    yield _Tensor(f"{name}.bias", (size,), f"{path}/beta")


def _tensors(config: BertConfig) -> Iterator[_Tensor]:
    hidden, wide = config.hidden_size, config.intermediate_size
    for name, path, rows in (
        ("word", "token", config.vocab_size),
        ("position", "position", config.max_position_embeddings),
        ("token_type", "segment", config.type_vocab_size),
    ):
        yield _Tensor(f"embeddings.{name}_embeddings.weight", (rows, hidden), f"embeddings/{path}_embeddings")
    yield from _layer_norm("embeddings.LayerNorm", "embeddings/layer_norm", hidden)
    for index in range(config.num_hidden_layers):
        name, path = f"encoder.layer.{index}", f"encoder_{index}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{name}.attention.self.{part}", f"{path}/attention/{part}", hidden, hidden)
        yield from _linear(f"{name}.attention.output.dense", f"{path}/attention/output", hidden, hidden)
        yield from _layer_norm(f"{name}.attention.output.LayerNorm", f"{path}/attention_norm", hidden)
        yield from _linear(f"{name}.intermediate.dense", f"{path}/intermediate", wide, hidden)
        yield from _linear(f"{name}.output.dense", f"{path}/output", hidden, wide)
        yield from _layer_norm(f"{name}.output.LayerNorm", f"{path}/output_norm", hidden)
    yield from _linear("pooler.dense", "pooler", hidden, hidden)


def _plain_name(name: str) -> str:
    """Returns the name without the prefix `bert.` of models with a head, and with today's names of layer norms."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _check_names(path: Path, found: set[str], wanted: list[_Tensor]) -> list[_Tensor]:
    """Returns the tensors to read; the pooler may be absent as a whole."""
    if not any(name.startswith("pooler.") for name in found):
        LOGGER.info("%s has no pooler: it starts from fresh random weights.", path)
        wanted = [tensor for tensor in wanted if not tensor.name.startswith("pooler.")]
    if missing := [tensor.name for tensor in wanted if tensor.name not in found]:
        raise ModelError(f"{path} lacks tensors that its config.json asks for: {', '.join(missing)}.")
    extra = sorted(found - {tensor.name for tensor in wanted})
    unused = [name for name in extra if _UNUSED.match(name)]
    if unknown := [name for name in extra if name not in unused]:
        raise ModelError(
            f"{path} has tensors that its config.json does not ask for: {', '.join(unknown)}. "
            "Give the configuration that belongs to these weights."
        )
    if unused:
        LOGGER.info("%s: not used by the encoder: %s.", path, ", ".join(unused))
    return wanted


def _assign(model: keras.Model, path: Path, config: BertConfig) -> None:
    safetensors = require("safetensors", extra="text")
    variables = {variable.path: variable for variable in model.variables}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = {_plain_name(name): name for name in file.keys()}  # noqa: SIM118 (not a mapping)
            wanted = _check_names(path, set(names), list(_tensors(config)))
            for tensor in wanted:
                shape = tuple(file.get_slice(names[tensor.name]).get_shape())
                if shape != tensor.shape:
                    raise ModelError(
                        f"{path}: tensor {names[tensor.name]} does not fit config.json. Expected shape: "
                        f"{tensor.shape}. Found: {shape}."
                    )
            for tensor in wanted:
                value: Any = file.get_tensor(names[tensor.name])
                variable = variables[tensor.path]
                value = (value.T if tensor.transpose else value).reshape(variable.shape)
                variable.assign(value.astype(np.float32))
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is not a whole safetensors file: {error}. Download it again.") from error


def load_bert(folder: str | Path, *, dropout: float | None = None) -> keras.Model:
    """Builds the encoder of a Hugging Face folder with its pretrained weights.

    Args:
        folder: A folder with `config.json` and `model.safetensors` of a `BertModel`, or of a BERT with a head. The head
            is left out.
        dropout: Replaces both dropout rates of the configuration; None keeps them.

    Returns:
        The model of `build_bert`.

    Raises:
        ModelError: a file is missing or malformed, or a tensor is missing, unknown or of another shape.
    """
    folder = Path(folder)
    config = BertConfig.from_file(folder / "config.json")
    if dropout is not None:
        config = dataclasses.replace(
            config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
    path = folder / "model.safetensors"
    if not path.is_file():
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".safetensors", ".h5"))
        raise ModelError(
            f"No weights at {path}. Found: {', '.join(others) or 'none'}. Save the model as one "
            "model.safetensors (save_pretrained with safe_serialization)."
        )
    model = build_bert(config)
    _assign(model, path, config)
    return model
