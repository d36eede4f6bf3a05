"""A tiny BERT in the Hugging Face layout, and tiny data, for `--smoke`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORDS = ("good", "bad", "film", "plot", "dull", "fine", "the", "a", "of", "and")
HIDDEN, LAYERS, INNER, POSITIONS = 16, 1, 32, 128


def write_model(folder: Path) -> Path:
    """Writes a folder as `save_pretrained` does, with drawn weights."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": INNER,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {
        "embeddings.word_embeddings.weight": (len(vocabulary), HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "pooler.dense.weight": (HIDDEN, HIDDEN),
        "pooler.dense.bias": (HIDDEN,),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        dense = dict.fromkeys(("self.query", "self.key", "self.value", "output.dense"), (HIDDEN, HIDDEN))
        named = {f"attention.{name}": shape for name, shape in dense.items()}
        named |= {"intermediate.dense": (INNER, HIDDEN), "output.dense": (HIDDEN, INNER)}
        for name, shape in named.items():
            shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = shape, shape[:1]
    generator = np.random.default_rng(0)
    tensors = {name: generator.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in norms:
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = (
            np.ones(HIDDEN, np.float32),
            np.zeros(HIDDEN, np.float32),
        )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_texts(folder: Path) -> Path:
    """Writes labelled texts of two kinds as `train`, `validation` and `test`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for name, count in (("train", 160), ("validation", 16), ("test", 32)):
        lines = ["text\tlabel"]
        for number in range(count):
            words = generator.choice(WORDS[2:], generator.integers(2, 24)).tolist()
            label = ("positive", "negative")[number % 2]
            lines.append(" ".join([WORDS[number % 2], *words]) + f"\t{label}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder
