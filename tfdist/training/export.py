"""SavedModels for serving: label probabilities from token ids and, with tensorflow-text, from raw text."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfdist.data.examples import Example, TextExample
from tfdist.files import replacing
from tfdist.models.tokenizer import BertTokenizer
from tfdist.tasks.base import Tokenizer
from tfdist.training.run_folder import RunFolder

NUM_COMPARED = 500


def export_model(
    folder: RunFolder,
    tokenizer: Tokenizer,
    names: Sequence[str],
    max_length: int,
    examples: Sequence[Example],
) -> Iterator[str]:
    """Writes the run's best model as SavedModels; yields a line for each that was written or left out.

    The model is read back from its file, outside of any strategy's scope. So the exported model is the saved one, has
    plain variables, and needs no other process.

    Args:
        folder: The folder of the model and of the SavedModels.
        tokenizer: The run's tokenizer.
        names: Label names.
        max_length: Longest sequence, in tokens.
        examples: Texts for which the tokenizer inside the SavedModel must give the same ids as `tokenizer`.
    """
    model = keras.saving.load_model(folder.best_model, compile=False)
    with replacing(folder.export) as temporary:
        write_saved_model(model, names, temporary)
    yield f"SavedModel from token ids: {folder.export}"

    texts = [example.text for example in examples[:NUM_COMPARED] if isinstance(example, TextExample)]
    reason = None
    if not texts or not isinstance(tokenizer, BertTokenizer):
        reason = "only for whole texts and word pieces"
    elif importlib.util.find_spec("tensorflow_text") is None:
        reason = "tensorflow-text is not installed"
    else:
        tokenize = word_piece_function(folder.tokenizer, max_length)
        reason = difference(tokenize, tokenizer, texts, max_length)
    if reason is not None:
        yield f"SavedModel from raw text: left out, {reason}"
        return
    with replacing(folder.export_text) as temporary:
        write_text_saved_model(model, names, tokenize, temporary)
    yield f"SavedModel from raw text: {folder.export_text} (needs tensorflow_text where it is loaded)"


def write_saved_model(model: keras.Model, names: Sequence[str], path: Path) -> None:
    """Writes a SavedModel from the model's own inputs, int32 (B, L), to `probabilities` and `labels`."""

    def serve(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(model(inputs, training=False)), "labels": tf.constant(names)}

    inputs = [tensor.name for tensor in model.inputs]
    _write(model, serve, {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in inputs}, path)


def write_text_saved_model(
    model: keras.Model, names: Sequence[str], tokenize: Callable[[tf.Tensor], tf.RaggedTensor], path: Path
) -> None:
    """Writes a SavedModel from `texts`, string (B,), to `probabilities` and `labels`."""

    def serve(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = tokenize(texts)
        inputs = {
            "token_ids": ids.to_tensor(),
            "segment_ids": tf.zeros_like(ids).to_tensor(),
            "padding_mask": tf.ones_like(ids).to_tensor(),
        }
        return {"probabilities": tf.nn.softmax(model(inputs, training=False)), "labels": tf.constant(names)}

    _write(model, serve, tf.TensorSpec([None], tf.string, name="texts"), path)


def word_piece_function(tokenizer_folder: Path, max_length: int) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """Returns a graph function from texts, string (B,), to token ids, int32 (B, ragged), by tensorflow-text.

    Args:
        tokenizer_folder: The folder with the `tokenizer.json` of a `BertTokenizer`.
        max_length: Longest sequence, special tokens included.
    """
    import tensorflow_text  # noqa: PLC0415 (optional, and registers its operations when loaded)

    content = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = content["model"]["vocab"]
    pieces = tensorflow_text.FastBertTokenizer(
        sorted(ids, key=ids.__getitem__),
        token_out_type=tf.int32,
        lower_case_nfd_strip_accents=content["normalizer"]["lowercase"],
    )

    def tokenize(texts: tf.Tensor) -> tf.RaggedTensor:
        inner = pieces.tokenize(texts)[:, : max_length - 2]
        begin, end = (tf.fill([inner.nrows(), 1], ids[token]) for token in ("[CLS]", "[SEP]"))
        return tf.concat([begin, inner, end], axis=1)

    return tokenize


def difference(
    tokenize: Callable[[tf.Tensor], tf.RaggedTensor],
    tokenizer: BertTokenizer,
    texts: Sequence[str],
    max_length: int,
) -> str | None:
    """Returns a sentence on the first text for which the two give different ids, or None."""
    expected = tokenizer.encode_texts(texts, max_length)
    for text, ids, other in zip(texts, expected, tokenize(tf.constant(texts)), strict=True):
        if not np.array_equal(ids, other.numpy()):
            return f"tensorflow-text gives other ids for {text!r}"
    return None


def _write(model: keras.Model, serve: Callable[..., dict[str, tf.Tensor]], spec: object, path: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serve, input_signature=[spec])
    archive.write_out(str(path), verbose=False)
