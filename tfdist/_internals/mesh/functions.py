"""What DTensor made of the functions of this process; no graph of a `tf.function` shows it."""

from __future__ import annotations

from typing import Any

from tensorflow.python.eager import context


def expanded_functions() -> dict[str, Any]:
    """Returns the definitions of each device's part of every function, collectives included, by name."""
    runtime = context.context()
    found = {}
    for name in runtime.list_function_names():
        text = name.decode() if isinstance(name, bytes) else name
        if text.startswith("_func_"):
            found[text] = runtime.get_function_def(text)
    return found
