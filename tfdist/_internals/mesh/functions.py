"""The functions that DTensor has made for each device, which the graph of a `tf.function` does not show."""

from __future__ import annotations

from typing import Any

from tensorflow.python.eager import context


def expanded_functions() -> dict[str, Any]:
    """Returns the definitions of all functions of this process by name, as one device runs them, with collectives."""
    runtime = context.context()
    found = {}
    for name in runtime.list_function_names():
        text = name.decode() if isinstance(name, bytes) else name
        if text.startswith("_func_"):
            found[text] = runtime.get_function_def(text)
    return found
