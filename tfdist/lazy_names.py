"""Public names of a package that are imported on first use, so that importing the package loads no TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from tfdist.errors import explain_missing


def lazy_names(
    package: str, modules: Mapping[str, str | None]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` for a package.

    Args:
        package: The package's name.
        modules: Public name -> the module of the package that has it; None if the name is that of a module.

    Raises:
        MissingPackageError: By `__getattr__`, if an optional library is absent; the message says how to install it.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {list(modules)}")
        module = modules[name]
        try:
            if module is None:
                return importlib.import_module(f"{package}.{name}")
            return getattr(importlib.import_module(f"{package}.{module}"), name)
        except ModuleNotFoundError as error:
            explained = explain_missing(error)
            if explained is None:
                raise
            raise explained from error

    return load, lambda: list(modules)
