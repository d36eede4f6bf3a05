"""What the patches inside a step see of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import tensorflow as tf

_current = threading.local()


class Step:
    """A part of one step, as the patches inside it see it: its rows, and what it shares with the other parts.

    A loss (and any other value that is a mean on one device) is the mean over the part's own rows; the global value is
    the mean of the parts' values, weighted by their share of the rows. So gradients are summed as shares, whoever
    computed the loss, and no loss needs to know how many parts there are.

    This class is the step of one program that has the whole batch. Its share is 1, and there are no other parts to
    sum with. A strategy overrides the methods for which that is not true.

    Args:
        num_valid: Scalar int64, the rows here that count.
        num_global: Scalar int64, the rows of the global batch.

    Attributes:
        has_rows: Scalar bool, whether any row here counts.
        weight: Scalar float32, the share of the global batch's rows that is here.
        padded: Whether rows of padding may be part of any batch.
        by_row: Whether random numbers are those that the rows get on one device.
        is_whole: Whether this part is the whole batch, so that there are no others.
        compiles_parts, masks_by_row: Whether parts of a model may be programs, and masks made by the numbers of rows.
        written: Keras variables assigned in this step, in order.
        before: The values, when the step began, of Keras variables to which the parts' changes are added, by `id`.
        wants_stop: Scalar float32, above 0 where this process wants training to stop.
        updated: Keras variables of an open update: those that it was given a gradient of, in their order.
        keeps_errors: Whether a sum of gradients keeps something for the next one, so that only those may be summed that
            are applied.
    """

    padded = False
    by_row = False
    is_whole = True
    compiles_parts = masks_by_row = True
    keeps_errors = False

    def __init__(self, num_valid: tf.Tensor, num_global: tf.Tensor) -> None:
        self.num_valid = num_valid
        self.num_global = num_global
        self.written: list[Any] = []
        self.before: dict[int, tf.Tensor] = {}
        self.wants_stop: tf.Tensor | None = None
        self.gradients_summed = False
        self.gradients_shared = False
        self.in_update = False
        self.updated: list[Any] = []
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

    # Rows of all parts.

    def gather_rows(self, values: Sequence[Any]) -> list[Any]:
        """Returns tensors of shape `(rows, …)` with the rows of all parts, in global order and without padding."""
        return list(values)

    def own_rows(self, value: Any) -> Any:
        """Returns, of a tensor with the rows of all parts, those of this one, and zeros for its padding."""
        return value

    def over_rows(self, values: Any, *, mean: bool) -> Any:
        """Returns the sum or the mean over the rows of all parts, of shape `values.shape[1:]`, in every part."""
        return tf.reduce_mean(values, 0) if mean else tf.reduce_sum(values, 0)

    def whole_batch(self) -> Step:
        """Returns the step of a program that has gathered the rows of all parts."""
        return self

    # Means and sums.

    def share(self, mean: Any) -> Any:
        """Returns what a mean over the rows here adds to the mean over the global batch."""
        return mean

    def as_mean(self, total: Any) -> Any:
        """Returns a sum over the rows here as the mean whose share it is."""
        return total

    def of_global_mean(self, mean: Any, denominator: Any) -> Any:
        """Returns `mean`, scaled so that the shares of all parts add up to the mean over the elements of all.

        Args:
            mean: Over the elements of this part.
            denominator: How many elements, or how much weight, this part has.
        """
        return mean

    def sum(self, values: Sequence[Any]) -> list[Any]:
        """Returns the sums over all parts of tensors or IndexedSlices."""
        return list(values)

    def of_each_part(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns floating-point tensors of shape `(parts, …)` with the values of all parts, in every part."""
        return [tf.expand_dims(value, 0) for value in values]

    def told(self) -> list[tf.Tensor]:
        """Returns what this part tells the others in each step, float32 tensors that are summed."""
        assert self.wants_stop is not None
        return [self.wants_stop]

    def heard(self, told: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns how many want to stop, given the sums of what all parts told; a vector if more stands behind it."""
        return told[0]

    # Gradients: summed once for each update, whoever asks first.

    def objective(self, loss: Any) -> Any:
        """Returns what this part differentiates, given a mean over its rows or a value for each row, which are summed.

        The gradients are shares.
        """
        return self.share(loss) if loss.shape.rank == 0 else loss

    def shares_of(self, gradients: Sequence[Any]) -> list[Any]:
        """Returns the gradients of a mean as shares, which add up over the parts; None stays None."""
        if self.gradients_shared:
            return list(gradients)
        return [None if gradient is None else self.share(gradient) for gradient in gradients]

    def sum_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        """Returns the sums of the gradients over all parts.

        Gradients that an open `update` has summed already stay as they are, and None stays None.
        """
        if self.gradients_summed:
            return list(gradients)
        return self._sum_shares(self.shares_of(gradients))

    def _sum_shares(self, shares: list[Any]) -> list[Any]:
        return shares

    def add_passengers(self, values: Sequence[tf.Tensor]) -> None:
        """Lets float32 and float64 tensors travel with the next sum of gradients, so that they cost no collective."""
        self._passengers = list(values)

    def take_passengers(self) -> list[tf.Tensor]:
        """Returns the sums of the passengers."""
        passengers, self._passengers = self._passengers, []
        return self.sum(passengers)

    # What a part keeps, and draws.

    def stored(self, variable: Any, value: Any) -> Any:
        """Returns the value that an assignment keeps, and notes that the Keras variable was written."""
        self.written.append(variable)
        return value

    def trust(self, variables: Iterable[Any]) -> None:
        """Notes that these Keras variables have the same value in all parts when the step begins."""

    def differs(self, variable: Any) -> bool:
        """Returns whether the parts may have written different values to a variable in this step."""
        return False

    def of_first(self, value: Any) -> Any:
        """Returns the value in the first part and zeros in the others, so that the sum is the value of the first."""
        return value

    def seed(self, advance: Callable[[], Any]) -> Any:
        """Returns the seed that this part draws from; `advance` gives the next one of all parts."""
        return advance()

    @property
    def first_row(self) -> tf.Tensor:
        """Scalar int64, the number in the global batch of the first row that is here."""
        return tf.constant(0, tf.int64)

    def drawing_for_all(self) -> AbstractContextManager[None]:
        """While open, seeds are those of one device, for random numbers that are made for each row by its number."""
        return nullcontext()

    def draw(self, shape: Any, draw: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """Returns random numbers for the rows of this part, the same for each row as on one device.

        Args:
            shape: The shape of the numbers for this part, rows first.
            draw: Returns random numbers of the shape that it is given, such as those of the global batch.
        """
        return draw(shape)

    def op(self, name: str, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs the operation `name` of Keras's backend, given the stock function."""
        return stock(*args, **kwargs)

    # Contexts: each changes how the step answers while it is open.
    @contextmanager
    def updating(self, variables: Sequence[Any]) -> Iterator[None]:
        """While open, the gradients that are summed are those of these Keras variables, without None."""
        with self._during(updated=list(variables)):
            yield

    @contextmanager
    def update(self, *, summed: bool) -> Iterator[None]:
        """Surrounds an optimizer's update.

        Args:
            summed: Whether the gradients of the update are global already; otherwise they are shares.
        """
        with self._during(in_update=True, gradients_shared=True, gradients_summed=summed):
            yield

    @contextmanager
    def shared_gradients(self) -> Iterator[None]:
        """While open, the loss is a share already, and so are the gradients that an optimizer is given."""
        with self._during(gradients_shared=True):
            yield

    @contextmanager
    def compiled(self) -> Iterator[None]:
        """While open, XLA compiles what is traced. It cannot compile a sum over the parts."""
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


def seed_of_part(seed: Any, index: Any) -> Any:
    """Returns the seed that part `index` draws from, made from the one that all parts advance alike."""
    return tf.cast(tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), index), seed.dtype)


def drawing_step() -> Step | None:
    """Returns the step that random numbers of this thread are drawn for: the current one, or that of `drawn_by`."""
    return current_step() or getattr(_current, "draws", None)


def sizes_of_replicas() -> tuple[int, ...]:
    """Returns the rows of each replica where this thread stands in for all of them, one after the other."""
    return getattr(getattr(_current, "draws", None), "sizes", ()) if current_step() is None else ()


@contextmanager
def drawn_by(step: Step) -> Iterator[None]:
    """While open, this thread has no step, but draws the random numbers of `step`."""
    before = getattr(_current, "draws", None)
    _current.draws = step
    try:
        yield
    finally:
        _current.draws = before
