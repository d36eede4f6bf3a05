"""`export` writes a SavedModel of variables that any process can load."""

from __future__ import annotations

from typing import Any

import keras

from tfdist._internals.contract import Distribution
from tfdist._internals.patch import Patch, of_model


def _export(distribution: Distribution, stock: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    return stock(distribution.portable(model), *args, **kwargs)


PATCHES = (
    Patch(
        name="fit.export",
        owner=keras.Model,
        attribute="export",
        make=of_model(_export),
        reason="a variable of a mesh is a DTensor, which a SavedModel cannot hold",
        upstream="no thread found",
    ),
)
