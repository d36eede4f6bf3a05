"""What tfdist keeps of a model's training, beside what Keras keeps: the wish to stop, and who watches the steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tfdist._internals.rows import check_same_rows


class BatchProbe(Protocol):
    """A meter that is shown every batch of the compiled training step."""

    def get_next(self, get_next: Callable[[], Any]) -> Any:
        """Returns the batch that `get_next()` gives."""


@dataclass
class Run:
    """The training of one model.

    Attributes:
        wants_stop: Whether this process wants training to stop; told to the others with the next step.
        heard: What the parts told each other in the last step: how many processes wanted to stop and, where each has
            the global batch, its rows in each process. A number, a scalar or a vector.
        probe: What is shown every batch, if anything.
        is_shown: Whether the call of `fit` shows its progress in this process.
        chooses_compilation: Whether training is to find out by itself whether XLA compiles its step.
        batch_spec: The spec of the batches that the model was built from last.
    """

    wants_stop: bool = False
    heard: Any = 0.0
    probe: BatchProbe | None = None
    is_shown: bool = False
    chooses_compilation: bool = False
    batch_spec: Any = None

    def votes(self) -> float:
        """Returns how many processes wanted to stop in the last step, for which it waits.

        Raises:
            DataError: The processes had batches with different numbers of rows.
        """
        votes, *rows = np.asarray(self.heard).reshape(-1)
        check_same_rows(np.asarray(rows))
        return float(votes)


_runs: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()


def run_of(model: Any) -> Run:
    """Returns the run of a model, made when it is first asked for."""
    return _runs.setdefault(model, Run())
