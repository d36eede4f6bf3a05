"""Imports libraries that an optional extra of the package brings."""

from __future__ import annotations

import importlib
from types import ModuleType

from tfdist.errors import ModelError


def require(module: str, extra: str) -> ModuleType:
    """Imports `module`.

    Raises:
        ModelError: The module is absent; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModelError(
            f"The library {module!r} is not installed. Install it with: pip install 'tfdist[{extra}]'"
        ) from error
