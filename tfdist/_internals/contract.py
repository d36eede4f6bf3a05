"""The contract between Keras's `fit`, the patches and a strategy.

`fit` and the patches around it see a strategy as a `Distribution`; the patches inside a step see a `Step`. A stock
strategy has neither, and stays stock.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfdist import process
from tfdist._internals import keras_state
from tfdist.errors import UnsupportedError

_current = threading.local()


class Step:
    """A part of one step, as the patches inside it see it: its rows, and what it shares with the other parts.

    A loss (and any other value that is a mean on one device) is the mean over the part's own rows; the global value is
    the mean of the parts' values, weighted by their share of the rows. So gradients are summed as shares, whoever
    computed the loss, and no loss needs to know how many parts there are.

    This class is the step whose one program has the whole batch: all its shares are whole, and there is nobody to
    share with. A strategy overrides what is not so with it.

    Args:
        num_valid: Scalar int64, the rows here that count.
        num_global: Scalar int64, the rows of the global batch.

    Attributes:
        has_rows: Scalar bool, whether any row here counts.
        weight: Scalar float32, the share of the global batch's rows that is here.
        padded: Whether rows of padding may be part of any batch.
        by_row: Whether random numbers are those that the rows get on one device.
        written: Keras variables assigned in this step, in order.
        wants_stop: Scalar float32, above 0 where this process wants training to stop.
    """

    padded = False
    by_row = False

    def __init__(self, num_valid: tf.Tensor, num_global: tf.Tensor) -> None:
        self.num_valid = num_valid
        self.num_global = num_global
        self.written: list[Any] = []
        self.wants_stop: tf.Tensor | None = None
        self.gradients_summed = False
        self.gradients_shared = False
        self.in_update = False
        self.in_compiled = False
        self._passengers: list[tf.Tensor] = []

    @property
    def has_rows(self) -> tf.Tensor:
        return tf.constant(True)

    @property
    def weight(self) -> tf.Tensor:
        return tf.constant(1.0)

    # Rows.

    def row_mask(self, rows: Any) -> tf.Tensor:
        """Returns the float32 mask, shape `(rows,)`, with 1 for the rows that count."""
        return tf.cast(tf.range(tf.cast(rows, tf.int64)) < self.num_valid, tf.float32)

    def without_padding(self, weights: Any) -> tf.Tensor:
        """Returns floating-point weights, or a mask, of shape `(rows, …)` with 0 for padded rows."""
        weights = tf.convert_to_tensor(weights)
        weights = weights if weights.dtype.is_floating else tf.cast(weights, tf.float32)
        mask = tf.cast(self.row_mask(tf.shape(weights)[0]), weights.dtype)
        return weights * tf.reshape(mask, [-1] + [1] * (weights.shape.rank - 1))

    def counted(self, output: Any) -> Any:
        """Returns the rows of a prediction that count."""
        return output

    # Means and sums.

    def share(self, mean: Any) -> Any:
        """Returns what a mean over the rows here adds to the mean over the global batch."""
        return mean

    def as_mean(self, total: Any) -> Any:
        """Returns a sum over the rows here as the mean whose share it is."""
        return total

    def of_global_mean(self, mean: Any, denominator: Any) -> Any:
        """Returns a mean over `denominator` elements here so that its share is that of the mean over all of them."""
        return mean

    def sum(self, values: Sequence[Any]) -> list[Any]:
        """Returns the sums over all parts of tensors or IndexedSlices."""
        return list(values)

    # Gradients: summed once for each update, whoever asks first.

    def shares_of(self, gradients: Sequence[Any]) -> list[Any]:
        """Returns the gradients of a mean as shares, which add up over the parts; None stays None."""
        if self.gradients_shared:
            return list(gradients)
        return [None if gradient is None else self.share(gradient) for gradient in gradients]

    def sum_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        """Returns the global gradients; those that are global already stay as they are, and None stays None."""
        if self.gradients_summed:
            return list(gradients)
        return self._sum_shares(self.shares_of(gradients))

    def _sum_shares(self, shares: list[Any]) -> list[Any]:
        return shares

    def add_passengers(self, values: Sequence[tf.Tensor]) -> None:
        """Lets float32 tensors travel with the next sum of gradients, so that they cost no collective."""
        self._passengers = list(values)

    def take_passengers(self) -> list[tf.Tensor]:
        """Returns the sums of the passengers."""
        passengers, self._passengers = self._passengers, []
        return self.sum(passengers)

    # What a part keeps, and draws.

    def stored(self, variable: Any, value: Any) -> Any:
        """Returns what an assignment keeps; notes that the Keras variable was written."""
        self.written.append(variable)
        return value

    def seed(self, seed: Any) -> Any:
        """Returns the seed that this part draws from, given the one that all parts advance alike."""
        return seed

    def draw(self, shape: Any, draw: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """Returns the rows here of random numbers of which `draw` gives those of the global batch."""
        return draw(shape)

    def op(self, name: str, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs the operation `name` of Keras's backend, given the stock function."""
        return stock(*args, **kwargs)

    # What is true while something is open.

    @contextmanager
    def update(self, *, summed: bool) -> Iterator[None]:
        """Is open around an optimizer's update, whose gradients are shares, or global ones if `summed`."""
        with self._during(in_update=True, gradients_shared=True, gradients_summed=summed):
            yield

    @contextmanager
    def shared_gradients(self) -> Iterator[None]:
        """While open, gradients given to an optimizer come from a loss that is a share already."""
        with self._during(gradients_shared=True):
            yield

    @contextmanager
    def compiled(self) -> Iterator[None]:
        """While open, XLA compiles what is traced, so that nothing can be shared."""
        with self._during(in_compiled=True):
            yield

    @contextmanager
    def _during(self, **values: Any) -> Iterator[None]:
        before = {name: getattr(self, name) for name in values}
        vars(self).update(values)
        try:
            yield
        finally:
            vars(self).update(before)


def current_step() -> Step | None:
    """Returns the step that this thread is in, or None outside of one."""
    return getattr(_current, "step", None)


@contextmanager
def step_scope(step: Step) -> Iterator[Step]:
    """Makes `step` the current one of this thread."""
    before = current_step()
    _current.step = step
    try:
        yield step
    finally:
        _current.step = before


class Batches(Protocol):
    """The batches of an epoch, placed on devices; what Keras iterates in place of a dataset.

    Attributes:
        element_spec: Of a global batch, as the user gave it.
        num_batches: Steps of an epoch, the same in all processes; None if unknown or without end.
    """

    element_spec: Any
    num_batches: int | None

    def __iter__(self) -> Iterator[Any]: ...


class Distribution(ABC):
    """What `fit` and the patches around it see of a strategy: mixed into a subclass of `tf.distribute.Strategy`.

    Attributes:
        name: The public name.
        saves_together: Whether a process that saves alone would lack pieces of variables.
        prepares_own_rows: Whether each process can prepare rows of its own and have those of the others by
            `all_gather_arrays`.
    """

    name = ""
    saves_together = False
    prepares_own_rows = False

    @property
    def is_stock(self) -> bool:
        """Whether stock Keras is right under it as it is."""
        return False

    @property
    @abstractmethod
    def row_shards(self) -> int:
        """In how many parts a batch's rows are divided, over all processes."""

    def describe(self) -> str:
        """Returns the name, and what else tells two such strategies apart."""
        return self.name

    @property
    def process_index(self) -> int:
        """The index of this process, 0 for the chief."""
        return process.process_index()

    @property
    def num_processes(self) -> int:
        """How many processes train together."""
        return process.num_processes()

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and shows the progress bar."""
        return process.is_chief()

    def prepare(self, model: Any, call: str) -> None:
        """Makes ready for a `call` of fit, evaluate or predict, or refuses it; no variable can be made in a step."""
        keras_state.adopt_seed_generator(self)

    def check(self, model: Any) -> None:
        """Refuses a model that has just been built, if it does not fit."""
        return None

    @abstractmethod
    def batches(self, dataset: tf.data.Dataset, num_batches: int | None, batch_size: int | None) -> Batches:
        """Returns a dataset as batches on the devices.

        Args:
            dataset: Global batches, the same in every process.
            num_batches: How many there are, if known.
            batch_size: Rows of each but the last, if known.
        """

    @abstractmethod
    def place(self, data: Any) -> Any:
        """Returns one global batch of the host on the devices; one that is there stays as it is."""

    @abstractmethod
    def step_of(self, batch: Any) -> tuple[Step, Any] | None:
        """Returns the step of what a device was given of a placed batch, and its data; None for anything else."""

    def counted_step(self, data: Any) -> tuple[Step, Any]:
        """Returns the step of a part's data that the strategy has not placed itself, and these data.

        Raises:
            UnsupportedError: The strategy takes no such data.
        """
        raise UnsupportedError(
            f"{self.name!r} takes batches that it places itself, and was given data that are distributed already. Give "
            "fit the dataset as it was before experimental_distribute_dataset."
        )

    @abstractmethod
    def parts_of(self, batch: Any) -> list[tuple[Any, Any]]:
        """Returns data and number of valid rows, scalar int64, of each local part of a placed batch."""

    @abstractmethod
    def runner(self, model: Any, step_function: Callable[..., Any]) -> Callable[[Any], Any]:
        """Returns what Keras calls with an iterator for every execution of training or test steps."""

    @abstractmethod
    def predictor(
        self, model: Any, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> Callable[[Any], Any]:
        """Returns what gives the predictions for a placed batch on the host, without padding and in order.

        Args:
            model: Its `predict_step` makes them.
            compiled: Compiles a function, if the model is to be compiled.
        """

    def settled(self, variables: Sequence[Any]) -> list[tuple[Any, tf.Tensor]]:
        """Waits for the last step; returns the variables that must be read on the host, with their values there."""
        return []

    def all_gather_arrays(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the arrays that the processes hold, in the order of the processes.

        Args:
            array: Of this process: a numeric dtype and rank 1, the dtype the same everywhere.

        Raises:
            UnsupportedError: The strategy does not `prepares_own_rows`.
            WorkerError: A process did not arrive.
        """
        raise UnsupportedError(
            f"processes under {self.name!r} exchange no arrays. Prepare all rows in each of them."
        )

    def run(self, fn: Any, args: tuple[Any, ...] = (), kwargs: Any = None, options: Any = None) -> Any:
        """Runs `fn` on every part, as `tf.distribute.Strategy.run`.

        Given a placed batch, `fn` gets the part's data alone, and what is patched in Keras knows the part's step.
        """
        state = keras_state.capture()

        def in_step(*args: Any, **kwargs: Any) -> Any:
            with keras_state.restored(state):
                found = self.step_of(args[0]) if args else None
                if found is None:
                    return fn(*args, **kwargs)
                step, data = found
                with step_scope(step):
                    return fn(data, *args[1:], **kwargs)

        return super().run(in_step, args=args, kwargs=kwargs, options=options)  # type: ignore[misc]


def distribution_of(strategy: Any) -> Distribution | None:
    """Returns what `fit` has to see of a strategy; None where Keras needs nothing of tfdist."""
    return strategy if isinstance(strategy, Distribution) and not strategy.is_stock else None


def describe(strategy: tf.distribute.Strategy) -> str:
    """Returns the public name of a strategy and what tells it apart, as `mesh batch=2 model=2`."""
    if isinstance(strategy, Distribution):
        return strategy.describe()
    if strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy():
        return "one_device"
    return type(strategy).__name__
