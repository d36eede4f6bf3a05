"""The functions that DTensor has made for each device, which the graph of a `tf.function` does not show."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tensorflow.python.eager import context


def expanded_functions(known: Collection[str] = ()) -> dict[str, Any]:
    """Returns the definitions of this process's functions by name, as one device runs them, with collectives.

    Args:
        known: Names of functions that are left out.
    """
    runtime = context.context()
    found = {}
    for name in runtime.list_function_names():
        text = name.decode() if isinstance(name, bytes) else name
        if text.startswith("_func_") and text not in known:
            found[text] = runtime.get_function_def(text)
    return found
