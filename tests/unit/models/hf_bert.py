"""A tiny random BERT in the Hugging Face layout, and BERT's arithmetic in plain NumPy to check Keras by."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "model_type": "bert",
    "vocab_size": 31,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 0.01,  # large, so that leaving it out shows
    "initializer_range": 0.02,
}


def random_tensors(config: dict = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    h, i = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], h),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], h),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], h),
        "embeddings.LayerNorm.weight": (h,),
        "embeddings.LayerNorm.bias": (h,),
        "pooler.dense.weight": (h, h),
        "pooler.dense.bias": (h,),
    }
    for n in range(config["num_hidden_layers"]):
        linear = {
            "attention.self.query": (h, h),
            "attention.self.key": (h, h),
            "attention.self.value": (h, h),
            "attention.output.dense": (h, h),
            "intermediate.dense": (i, h),
            "output.dense": (h, i),
        }
        for name, shape in linear.items():
            shapes[f"encoder.layer.{n}.{name}.weight"] = shape
            shapes[f"encoder.layer.{n}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{n}.{name}.weight"] = (h,)
            shapes[f"encoder.layer.{n}.{name}.bias"] = (h,)
    return {name: rng.normal(scale=0.5, size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors"
    )
    return folder


def random_inputs(
    batch: int = 3, length: int = 7, config: dict = CONFIG, seed: int = 1
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, length + 1, size=(batch, 1))
    return {
        "token_ids": rng.integers(0, config["vocab_size"], size=(batch, length)).astype("int32"),
        "segment_ids": rng.integers(0, config["type_vocab_size"], size=(batch, length)).astype("int32"),
        "padding_mask": (np.arange(length) < lengths).astype("int32"),
    }


def _layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def _gelu(x, act):
    if act == "relu":
        return np.maximum(x, 0)
    if act == "gelu":
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def numpy_bert(tensors, inputs, config=CONFIG, act="gelu") -> dict[str, np.ndarray]:
    """float64, one head at a time, straight from the paper and the names of the file."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    eps, heads = config["layer_norm_eps"], config["num_attention_heads"]
    width = config["hidden_size"] // heads

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        return _layer_norm(x, t[f"{name}.weight"], t[f"{name}.bias"], eps)

    length = inputs["token_ids"].shape[1]
    x = t["embeddings.word_embeddings.weight"][inputs["token_ids"]]
    x = x + t["embeddings.position_embeddings.weight"][:length]
    x = x + t["embeddings.token_type_embeddings.weight"][inputs["segment_ids"]]
    x = norm(x, "embeddings.LayerNorm")
    for n in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{n}"
        q, k, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        context = np.zeros_like(x)
        for head in range(heads):
            cut = slice(head * width, (head + 1) * width)
            scores = q[..., cut] @ k[..., cut].swapaxes(1, 2) / math.sqrt(width)
            scores = np.where(inputs["padding_mask"][:, None, :] == 1, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            context[..., cut] = weights / weights.sum(-1, keepdims=True) @ v[..., cut]
        x = norm(
            x + linear(context, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm"
        )
        hidden = _gelu(linear(x, f"{layer}.intermediate.dense"), act)
        x = norm(x + linear(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return {"sequence_output": x, "pooled_output": np.tanh(linear(x[:, 0], "pooler.dense"))}
