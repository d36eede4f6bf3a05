"""The shape of a BERT, as a Hugging Face `config.json` gives it; no Keras needed to read it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tfdist.errors import ModelError, did_you_mean

HIDDEN_ACTS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_approximate", "relu")


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT, with the names and defaults of a Hugging Face `config.json`."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            wanted = {"int": (int,), "float": (int, float), "str": (str,)}[str(field.type)]
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise ModelError(f"{field.name} must be of type {field.type}. Given: {value!r}.")
            if isinstance(value, int) and field.type == "int" and value < 1:
                raise ModelError(f"{field.name} must be at least 1. Given: {value}.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ModelError(f"{name} must be in [0, 1). Given: {getattr(self, name)}.")
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"hidden_size must be a multiple of num_attention_heads. Given: {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if self.hidden_act not in HIDDEN_ACTS:
            raise ModelError(
                f"Unknown hidden_act. Given: {self.hidden_act!r}. Allowed: {', '.join(HIDDEN_ACTS)}."
                + did_you_mean(self.hidden_act, HIDDEN_ACTS)
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a Hugging Face configuration; keys that do not change the encoder are left out.

        Raises:
            ModelError: The configuration is a variant of BERT that `build_bert` does not compute, or a value is out of
                range.
        """
        for key, allowed in (
            ("model_type", "bert"),
            ("position_embedding_type", "absolute"),
            ("is_decoder", False),
        ):
            if (given := values.get(key, allowed)) != allowed:
                raise ModelError(f"This BERT cannot be built: {key} is {given!r}. Allowed: {allowed!r}.")
        return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Reads a file `config.json`.

        Raises:
            ModelError: The file is missing, malformed or unsupported.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"No configuration at {path}. Give a Hugging Face model folder.") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is not readable JSON: {error}.") from error
        if not isinstance(values, dict):
            raise ModelError(f"{path} must hold a JSON object. Given: {type(values).__name__}.")
        try:
            return cls.from_dict(values)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
