"""A copy of a model that is on no mesh, for `export`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdist.errors import UnsupportedError


def copy_on_host(model: Any) -> Any:
    """Returns a copy of the model with whole variables of the host.

    Raises:
        UnsupportedError: In the scope of a strategy, where the copy would be made on the mesh too.
    """
    if tf.distribute.has_strategy():
        raise UnsupportedError(
            "export writes a copy of the model that is on no mesh, and cannot make one in the scope of a strategy. "
            "Call it after the scope."
        )
    copy = type(model).from_config(model.get_config())
    if not copy.built:
        copy.build_from_config(model.get_build_config())
    copy.set_weights(model.get_weights())
    return copy
