"""A text classifier with a bidirectional GRU, for training from nothing."""

from __future__ import annotations

import keras

from tfdist.errors import ModelError


def build_bigru(
    *,
    vocab_size: int = 30000,
    embedding_dim: int = 128,
    units: int = 64,
    num_labels: int = 2,
    dropout: float = 0.0,
) -> keras.Model:
    """Builds the classifier; id 0 is padding.

    Args:
        vocab_size: Number of token ids, padding included.
        embedding_dim: Width of the embedding.
        units: Width of each direction of the GRU.
        num_labels: Number of labels.
        dropout: Dropout rate in front of the head.

    Returns:
        A functional model from int32 `token_ids` (B, L), as an array or in a dict, to float32: for two labels
        the probability of label 1, (B, 1); for more, logits (B, num_labels).

    Raises:
        ModelError: fewer than two labels.
    """
    if num_labels < 2:
        raise ModelError(f"num_labels must be at least 2. Given: {num_labels}.")
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(vocab_size, embedding_dim, mask_zero=True, name="embedding")(token_ids)
    x = keras.layers.Bidirectional(keras.layers.GRU(units, name="gru"), name="bidirectional")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    head = (
        keras.layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")
        if num_labels == 2
        else keras.layers.Dense(num_labels, dtype="float32", name="logits")
    )
    # The input is in a list: Keras then takes an array as well as a dict, without a warning.
    return keras.Model([token_ids], head(x), name="bigru")
