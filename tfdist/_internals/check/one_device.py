"""A model on one device: its variables and optimizers are those of plain Keras for a while, without a strategy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist._internals.check.variables import Tracked, optimizers_of, variables_of
from tfdist._internals.contract import Distribution
from tfdist._internals.step.repeated_rows import repeated_rows_of, set_repeated_rows


class OneDevice:
    """A context in which a model is on one device; it may be opened several times, in a thread that has no strategy.

    A variable is then its first component, so that it takes no memory of its own. A variable of a mesh has a twin.

    Args:
        distribution: Where the model's variables belong.
        model: The model.

    Attributes:
        has_made: Whether variables were made while it was open.
    """

    def __init__(self, distribution: Distribution, model: keras.Model) -> None:
        self._distribution: Any = distribution
        self._model: Any = model
        # By the identity of what stands in: that and the variable. Both are kept, since nothing else may hold them.
        self._stands_for: dict[int, tuple[Any, Any]] = {}
        self._twins: dict[int, Any] = {}
        self._reference: Any = None
        self._creating = self.has_made = False
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self._model, "_distribute_strategy", self._model._distribute_strategy)
            self._model._distribute_strategy = None
            default: Any = _Default(self)
            set_repeated_rows(default, repeated_rows_of(self._distribution))
            for optimizer in optimizers_of(self._model):
                stack.callback(setattr, optimizer, "_distribution_strategy", self._distribution)
                optimizer._distribution_strategy = default
            for one in variables_of(self._model):
                one.keras_variable._value = self.plain(one)
            stack.callback(self._put_back)
            self._undo = stack.pop_all()

    def __exit__(self, *error: Any) -> None:
        self._undo.close()

    def _put_back(self) -> None:
        # Those that were made in the meantime belong to the strategy too.
        for one in variables_of(self._model):
            if id(one.raw) in self._stands_for:
                one.keras_variable._value = self._stands_for[id(one.raw)][1]

    def plain(self, tracked: Tracked) -> Any:
        """Returns the variable that stands in for another one on one device."""
        return self._plain(tracked.raw, tracked.path.rpartition("/")[2])

    def _plain(self, raw: Any, name: str) -> Any:
        plain = raw.values[0] if isinstance(raw, tf.distribute.DistributedValues) else raw
        if hasattr(raw, "device_bytes"):
            if id(raw) not in self._twins:
                self._twins[id(raw)] = tf.Variable(raw.numpy(), trainable=raw.trainable, name=name)
                # By this Keras finds the slots of a variable.
                self._twins[id(raw)]._distributed_container = lambda: raw
            plain = self._twins[id(raw)]
        self._stands_for[id(plain)] = plain, raw
        return plain

    def create(self, next_creator: Callable[..., Any], **kwargs: Any) -> Any:
        """Makes a variable on all devices; returns the one that stands in for it. A creator of `tf.Variable`."""
        if self._creating:  # the strategy makes its components by the same creators
            return next_creator(**kwargs)
        options = {key: value for key, value in kwargs.items() if key in _OPTIONS}
        strategy, self._creating, self.has_made = self._distribution, True, True
        try:
            with tf.init_scope(), strategy.scope(), contextlib.ExitStack() as stack:
                if self._reference is not None:
                    stack.enter_context(strategy.extended.colocate_vars_with(self._reference))
                raw = tf.Variable(**options)
            with tf.init_scope():
                return self._plain(raw, str(kwargs.get("name")))
        finally:
            self._creating = False

    @contextlib.contextmanager
    def beside(self, variable: Any) -> Iterator[None]:
        """While open, variables are made beside that for which `variable` stands in."""
        self._reference = self._stands_for.get(id(variable), (None, None))[1]
        try:
            yield
        finally:
            self._reference = None


_OPTIONS = ("initial_value", "trainable", "name", "dtype", "shape", "synchronization", "aggregation")


class _Default:
    """The default strategy as an optimizer sees it; it says beside which variable a slot is made."""

    def __init__(self, device: OneDevice) -> None:
        self._default: Any = tf.distribute.get_strategy()
        self.extended = self
        self.colocate_vars_with = device.beside

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._default, name, None)
        return getattr(self._default.extended, name) if found is None else found
