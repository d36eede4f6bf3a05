"""The layout of any model where the user gives no rules: transformers by name, everything else by what divides.

The split of transformers is that of Megatron-LM (Shoeybi et al., 2019, section 3). The projections of attention are
split by heads, the first feed-forward layer by columns, the layer that follows each of these by rows, and embeddings by
vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MODEL_AXIS = "model"

Axes = tuple[str | None, ...]


class AutomaticLayout(NamedTuple):
    """How one variable is split.

    Attributes:
        axes: The mesh axis of each dimension, or None.
        reason: Why no dimension is split; empty if one is.
    """

    axes: Axes
    reason: str


# Expression on the path -> rank -> the dimension to split. The rank tells kernels that have heads from the others.
_BY_NAME: tuple[tuple[str, Mapping[int, int]], ...] = (
    (r"(query|key|value)/kernel$", {3: 1, 2: 1}),
    (r"(query|key|value)/bias$", {2: 0, 1: 0}),
    (r"(attention_output|attention/output|output_dense)/kernel$", {3: 0}),
    (r"(intermediate|intermediate_dense|up_dense|gate_dense|gating_dense\w*)/kernel$", {2: 1}),
    (r"(intermediate|intermediate_dense)/bias$", {1: 0}),
    (r"(encoder_\d+/output|output_dense|feedforward_output|down_dense)/kernel$", {2: 0}),
    (r"(token_embeddings?|token_embedding/embeddings)$", {2: 0}),
    (r"^embedding/embeddings$", {2: 0}),
    (r"^mlp/hidden/kernel$", {2: 1}),
    (r"^mlp/hidden/bias$", {1: 0}),
    (r"^mlp/logits/kernel$", {2: 0}),
)

# Variables that stay whole: they are small beside the others, or every time step would wait for the other devices.
_WHOLE = (
    (r"(position|segment|token_type)_embeddings?(/|$)", "a small table beside the vocabulary"),
    (r"(pooler|pooled_dense|logits|probability)/kernel$", "a head, small beside the layers"),
    (r"(lstm|gru|rnn)\w*/\w*_cell/", "a recurrence, whose every step would wait for the others"),
)


def automatic_layout(path: str, shape: Sequence[int], mesh: Mapping[str, int]) -> AutomaticLayout:
    """Returns how the variable at `path` is split over the `model` axis.

    Args:
        path: The variable's path, as in `variable.path`.
        shape: The shape of the whole variable.
        mesh: Axis name -> size.
    """
    rank = len(shape)
    whole: Axes = (None,) * rank
    if MODEL_AXIS not in mesh:
        return AutomaticLayout(whole, "")
    for pattern, dimensions in _BY_NAME:
        if rank in dimensions and re.search(pattern, path):
            return _split(shape, (dimensions[rank],), mesh[MODEL_AXIS])
    for pattern, reason in _WHOLE:
        if re.search(pattern, path):
            return AutomaticLayout(whole, reason)
    if rank < 2:
        return AutomaticLayout(whole, "a vector or scalar")
    # Columns come first, because a product with split columns needs no sum.
    return _split(shape, range(rank - 1, -1, -1), mesh[MODEL_AXIS])


def _split(shape: Sequence[int], dimensions: Sequence[int], size: int) -> AutomaticLayout:
    """Returns the split of the first of `dimensions` that `size` divides."""
    for dimension in dimensions:
        if shape[dimension] and shape[dimension] % size == 0:
            axes = (MODEL_AXIS if index == dimension else None for index in range(len(shape)))
            return AutomaticLayout(tuple(axes), "")
    tried = [shape[dimension] for dimension in dimensions]
    numbers = f"{tried[0]} is not a multiple" if len(tried) == 1 else f"none of {sorted(tried)} is a multiple"
    return AutomaticLayout((None,) * len(shape), f"{numbers} of {size}")
