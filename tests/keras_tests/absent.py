"""Stands in for modules of other backends that are not installed, while files that import them are imported."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

OTHER_BACKENDS = ("jax", "torch", "grain")


class _Absent(ModuleType):
    """Stands for a module that is not installed, and for all that is in it."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._skip_in_test()
        return _Absent(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._skip_in_test()
        return self

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (object,)

    def _skip_in_test(self) -> None:
        if "PYTEST_CURRENT_TEST" in os.environ:
            pytest.skip(f"needs {self.__name__.partition('.')[0]}")


@contextlib.contextmanager
def absent_modules() -> Iterator[None]:
    """While open, modules of the backends that are not installed can be imported, as empty ones."""
    names = [name for name in OTHER_BACKENDS if importlib.util.find_spec(name) is None]
    parts = [
        *names,
        *(f"{name}.{part}" for name in names for part in ("experimental", "experimental.sparse")),
    ]
    absent = {name: _Absent(name) for name in parts}
    for name in parts:
        package, _, attribute = name.rpartition(".")
        if package:
            vars(absent[package])[attribute] = absent[name]
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
