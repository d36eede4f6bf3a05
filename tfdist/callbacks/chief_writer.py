"""How several workers save a model: the chief writes, and the others help if it lacks pieces of variables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from tfdist._internals.contract import distribution_of
from tfdist.files import write_atomically
from tfdist.process import is_chief


def save_along(model: Any, save: Callable[[str], None]) -> None:
    """Saves to a folder that is deleted afterwards, if the chief needs this process's pieces of variables to save."""
    distribution = distribution_of(model.distribute_strategy)
    if distribution is not None and distribution.saves_together:
        with tempfile.TemporaryDirectory() as folder:
            save(folder)


def settle(model: Any) -> None:
    """Ends what steps have left open in weights and slots, before these are saved; all processes call it."""
    distribution = distribution_of(model.distribute_strategy)
    if distribution is not None:
        distribution.settle(model, slots=True)


class AtomicModel:
    """A model whose `save` and `save_weights` write atomically on the chief, and nothing on other processes.

    All other attributes are the model's own. So a stock Keras callback that is given this object in `set_model` needs
    no further change.
    """

    def __init__(self, model: Any) -> None:
        object.__setattr__(self, "_wrapped", model)

    def save(self, filepath: str, **options: Any) -> None:
        self._write(self._wrapped.save, filepath, options)

    def save_weights(self, filepath: str, **options: Any) -> None:
        self._write(self._wrapped.save_weights, filepath, options)

    def _write(self, save: Callable[..., None], filepath: str, options: dict[str, Any]) -> None:
        settle(self._wrapped)
        if is_chief():
            write_atomically(str(filepath), lambda temporary: save(temporary, **options))
        else:
            save_along(
                self._wrapped,
                lambda folder: save(os.path.join(folder, os.path.basename(filepath)), **options),
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)
