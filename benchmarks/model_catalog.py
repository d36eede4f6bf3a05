"""Models of `keras.applications` and backbones of KerasHub, small enough for one step on a laptop.

Nothing is downloaded: weights are drawn, images are small, and backbones have two layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

CLASSES, ROWS, LENGTH, VOCABULARY = 4, 6, 8, 24

Data = dict[str, np.ndarray] | np.ndarray
Build = Callable[[], keras.Model]

_random = np.random.default_rng(0)


def _application(name: str, size: int, **options: Any) -> tuple[Build, Data]:
    def build() -> keras.Model:
        create = getattr(keras.applications, name)
        base = create(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg", **options)
        return keras.Model(base.input, keras.layers.Dense(CLASSES)(base.output))

    # The models scale their input themselves, or expect it so.
    return build, _random.random((ROWS, size, size, 3)).astype("float32")


APPLICATIONS: dict[str, Callable[[], tuple[Build, Data]]] = {
    "MobileNet": lambda: _application("MobileNet", 32, alpha=0.25),
    "VGG16": lambda: _application("VGG16", 32),
    "MobileNetV2": lambda: _application("MobileNetV2", 32, alpha=0.35),
    "MobileNetV3Small": lambda: _application("MobileNetV3Small", 32, alpha=0.75),
    "ConvNeXtTiny": lambda: _application("ConvNeXtTiny", 32),
    "ResNet50": lambda: _application("ResNet50", 32),
    "ResNet50V2": lambda: _application("ResNet50V2", 32),
    "Xception": lambda: _application("Xception", 71),
    "InceptionV3": lambda: _application("InceptionV3", 75),
    "EfficientNetB0": lambda: _application("EfficientNetB0", 32),
    "EfficientNetV2B0": lambda: _application("EfficientNetV2B0", 32),
    "DenseNet121": lambda: _application("DenseNet121", 32),
}

_SHAPE = {"num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}
_ENCODER = {"vocabulary_size": VOCABULARY, "num_heads": 2, "max_sequence_length": LENGTH, **_SHAPE}
_GROUPED = {"vocabulary_size": VOCABULARY, "num_query_heads": 2, "num_key_value_heads": 1, **_SHAPE}

# Class of KerasHub without "Backbone" -> its options.
BACKBONES: dict[str, dict[str, Any]] = {
    "Bert": _ENCODER,
    "Roberta": _ENCODER,
    "DistilBert": _ENCODER,
    "Albert": _ENCODER | {"embedding_dim": 8},
    "DebertaV3": _ENCODER | {"bucket_size": 4},
    "Electra": {"vocab_size": VOCABULARY, "embedding_dim": 8}
    | {name: value for name, value in _ENCODER.items() if name != "vocabulary_size"},
    "FNet": {name: value for name, value in _ENCODER.items() if name != "num_heads"},
    "XLMRoberta": _ENCODER,
    "RoformerV2": {"vocabulary_size": VOCABULARY, "num_heads": 2, "head_size": 4, **_SHAPE},
    "GPT2": _ENCODER,
    "GPTNeoX": _ENCODER | {"rotary_percentage": 1.0},
    "OPT": _ENCODER,
    "Bloom": {name: value for name, value in _ENCODER.items() if name != "max_sequence_length"},
    "Falcon": {
        "vocabulary_size": VOCABULARY,
        "num_layers": 2,
        "num_attention_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 16,
    },
    "Llama": _GROUPED,
    "Llama3": _GROUPED,
    "Mistral": _GROUPED | {"sliding_window": 4},
    "Qwen": _GROUPED,
    "Qwen3": _GROUPED | {"head_dim": 4},
    "Phi3": _GROUPED,
    "Gemma": _GROUPED | {"head_dim": 4},
    "T5": {"vocabulary_size": VOCABULARY, "num_heads": 2, **_SHAPE},
    "Bart": _ENCODER,
    "Whisper": _ENCODER
    | {"num_mels": 4, "max_encoder_sequence_length": 2 * LENGTH, "max_decoder_sequence_length": LENGTH},
    "ViT": {
        "image_shape": (16, 16, 3),
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "mlp_dim": 16,
    },
}


def _data_of(name: str, shape: tuple[Any, ...]) -> np.ndarray:
    """Returns rows for an input of a backbone, which its name tells apart."""
    if name == "images" or len(shape) == 4:
        return _random.random((ROWS, 16, 16, 3)).astype("float32")
    if "features" in name:
        return _random.random((ROWS, 2 * LENGTH, shape[-1])).astype("float32")
    if "padding_mask" in name:
        return (np.arange(LENGTH)[None, :] < _random.integers(3, LENGTH + 1, (ROWS, 1))).astype("int32")
    if "segment" in name:
        return np.zeros((ROWS, LENGTH), "int32")
    return _random.integers(1, VOCABULARY, (ROWS, LENGTH)).astype("int32")


def _backbone(name: str) -> tuple[Build, Data]:
    import keras_hub

    create = getattr(keras_hub.models, f"{name}Backbone")
    options = BACKBONES[name]
    if name == "Whisper":
        options = {key: value for key, value in options.items() if key != "max_sequence_length"}

    def build() -> keras.Model:
        base = create(**options)
        output = base.output
        if isinstance(output, dict):
            found = [key for key in ("decoder_sequence_output", "sequence_output") if key in output]
            output = output[found[0]]
        hidden = keras.ops.mean(output, axis=1)
        return keras.Model(base.input, keras.layers.Dense(CLASSES)(hidden))

    inputs = create(**options).input
    if not isinstance(inputs, dict):
        return build, _data_of("images", tuple(inputs.shape))
    return build, {key: _data_of(key, tuple(value.shape)) for key, value in inputs.items()}


def names() -> list[str]:
    """Returns all models, those of KerasHub first, since they are smaller."""
    return [*(f"keras_hub/{name}" for name in BACKBONES), *(f"applications/{name}" for name in APPLICATIONS)]


def model(name: str) -> tuple[Build, Data]:
    """Returns what builds the model, and rows for it."""
    source, _, short = name.partition("/")
    return APPLICATIONS[short]() if source == "applications" else _backbone(short)
