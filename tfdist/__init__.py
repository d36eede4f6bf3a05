"""tfdist: Keras 3 `fit` that gives the one-device result under every TensorFlow distribution strategy."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module. Names are loaded on first use, so that `import tfdist` loads no TensorFlow.
_PUBLIC = {
    "create_strategy": "tfdist.strategies.factory",
    "list_strategies": "tfdist.strategies.factory",
    "register_strategy": "tfdist.strategies.factory",
    "plan_sharding": "tfdist.planner",
    "sharding_report": "tfdist.sharding.report",
    "callbacks": None,
    "models": None,
    "data": None,
    "errors": None,
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tfdist' has no attribute {name!r}; it has {__all__}")
    module = _PUBLIC[name]
    try:
        if module is None:
            return importlib.import_module(f"tfdist.{name}")
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        from tfdist.errors import explain_missing

        explained = explain_missing(error)
        if explained is None:
            raise
        raise explained from error


def __dir__() -> list[str]:
    return __all__
