"""What `fit` and the patches around it see of a strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from tfdist import process
from tfdist._internals import keras_state
from tfdist._internals.contract.division import Division
from tfdist._internals.contract.step import Step, step_scope
from tfdist._internals.processes.coordination import all_gather_json
from tfdist.errors import UnsupportedError


class Batches(Protocol):
    """The batches of an epoch, placed on devices; what Keras iterates in place of a dataset.

    Attributes:
        element_spec: The spec of a global batch, as the user gave it.
        num_batches: Steps of an epoch, the same in all processes; None if they are unknown or have no end.
    """

    element_spec: Any
    num_batches: int | None

    def __iter__(self) -> Iterator[Any]: ...


class Sample(NamedTuple):
    """A few rows of a batch, for a step that is done twice.

    Attributes:
        batch: The rows as a step takes them, placed on the devices.
        data: All of them together, on the host.
        sizes: How many of them each replica has; empty if one program has all of them.
        num_rows: How many there are.
        padded_size: The rows that each replica computes on, if there is padding; otherwise 0.
    """

    batch: Any
    data: Any
    sizes: tuple[int, ...]
    num_rows: int
    padded_size: int = 0


class Distribution(ABC):
    """What `fit` and the patches around it see of a strategy: mixed into a subclass of `tf.distribute.Strategy`.

    Attributes:
        name: The public name of the strategy.
        saves_together: Whether all processes must save together, because a variable has pieces in each of them.
        prepares_own_rows: Whether each process can prepare rows of its own, and get those of the others by
            `all_gather_arrays`.
        random_by_row: Whether each row gets the random numbers that it gets on one device.
        self_check: Whether the first step of a training function is checked: `"on"`, `"warn"` or `"off"`;
            `create_strategy` sets it.
        in_loop: Whether a step is traced now that runs several times in one call.
        division: Who makes the update of which variable in the step that is traced; None if every replica makes all.
    """

    name = ""
    in_loop = False
    division: Division | None = None
    self_check = "off"
    random_by_row = False
    saves_together = False
    prepares_own_rows = False

    @property
    def is_stock(self) -> bool:
        """Whether stock Keras is right under it as it is."""
        return False

    @property
    def compiles_updates(self) -> bool:
        """Whether a part updates variables of its own, for which XLA can compile programs."""
        return False

    @property
    def compares_compilation(self) -> bool:
        """Whether a step may be done with and without XLA, and put back, to see which is faster."""
        return False

    @property
    def takes_any_rows(self) -> bool:
        """Whether a step can take a few rows of a batch, in a program that is compiled for them."""
        return True

    @property
    @abstractmethod
    def row_shards(self) -> int:
        """The number of parts into which the rows of a batch are divided, over all processes."""

    def describe(self) -> str:
        """Returns the name, and with it what tells two strategies of this name apart."""
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
        """Prepares a call of `fit`, `evaluate` or `predict`, or refuses it."""
        return None

    def check(self, model: Any) -> None:
        """Refuses a model that has just been built, if the strategy cannot train it."""
        return None

    def owns(self, variable: tf.Variable) -> bool:
        """Returns whether a variable of TensorFlow was made in the scope of this strategy."""
        return getattr(variable, "_distribute_strategy", None) is self

    @abstractmethod
    def batches(self, dataset: tf.data.Dataset, num_batches: int | None, batch_size: int | None) -> Batches:
        """Returns a dataset as batches on the devices.

        Args:
            dataset: Global batches, the same in every process.
            num_batches: The number of batches, None if it is not known.
            batch_size: The rows of each batch but the last, None if they are not known.
        """

    @abstractmethod
    def place(self, data: Any) -> Any:
        """Returns a global batch of the host, placed on the devices; a placed batch is returned as it is."""

    @abstractmethod
    def step_of(self, batch: Any) -> tuple[Step, Any] | None:
        """Returns the step and the data of one part of a placed batch; None if `batch` is no such part."""

    def counted_step(self, data: Any) -> tuple[Step, Any]:
        """Returns the step and the data of a part that the user has distributed, and not the strategy.

        Raises:
            UnsupportedError: The strategy takes no such data.
        """
        raise UnsupportedError(
            f"{self.name!r} takes batches that it places itself, and was given data that are distributed already. Give "
            "fit the dataset as it was before experimental_distribute_dataset."
        )

    def sample(self, batch: Any, has_fixed_rows: bool) -> Sample:
        """Returns a few rows of a placed batch; of several processes, all call it.

        Args:
            batch: The batch.
            has_fixed_rows: Whether the compiled step takes this number of rows only, so that all are taken.

        Raises:
            UnsupportedError: The strategy cannot tell which rows the batch has.
        """
        raise UnsupportedError(f"{self.name!r} does not tell the rows of a batch")

    @abstractmethod
    def parts_of(self, batch: Any) -> list[tuple[Any, Any]]:
        """Returns the data and the number of valid rows, a scalar int64, of each local part of a placed batch."""

    @abstractmethod
    def runner(self, model: Any, step_function: Callable[..., Any]) -> Callable[[Any], Any]:
        """Returns the function that Keras calls with an iterator for every execution of training or test steps."""

    @abstractmethod
    def predictor(
        self, model: Any, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> Callable[[Any], Any]:
        """Returns a function from a placed batch to its predictions on the host, without padding and in order.

        Args:
            model: The model, whose `predict_step` makes the predictions.
            compiled: Compiles a function if the model is to be compiled, and otherwise returns it as it is.
        """

    def settled(self, variables: Sequence[Any]) -> list[tuple[Any, tf.Tensor]]:
        """Waits for the last step; returns the variables that must be read on the host, each with its value."""
        return []

    def settle(self, model: Any, *, slots: bool = False) -> None:
        """Ends what steps have left open in a model's weights, before these are read; all processes call it.

        Args:
            model: The model.
            slots: Whether the slots of its optimizers are to be whole too, as for a checkpoint.
        """
        return None

    def figures(self, model: Any) -> dict[str, float]:
        """Returns what the strategy measures of a training, by its tag in TensorBoard; this waits for the last step."""
        return {}

    @abstractmethod
    def sum_error(self) -> float:
        """Returns the largest relative error of a sum of known vectors over all devices; every process calls this."""

    def pieces_of(self, variable: Any) -> dict[str, np.ndarray]:
        """Returns what this process holds of a Keras variable, to be compared with what the others hold.

        Returns:
            Name of a piece -> its value. All processes that hold a piece of one name have the same, if all is well.
        """
        return {"": np.asarray(variable.value)}

    @contextmanager
    def exact_sums(self) -> Iterator[str]:
        """While open, steps are compiled that sum gradients exactly; yields what is left out for it, or ""."""
        yield ""

    def own_state(self, model: Any) -> dict[str, tuple[Callable[[], Any], Callable[[Any], None]]]:
        """Returns what the strategy itself keeps of a run: name -> how it is read, and set, by all processes."""
        return {}

    def watch(self) -> None:
        """Has steps that are compiled from now on measure what `figures` returns."""
        return None

    def any_process(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process; all processes call this."""
        return any(all_gather_json("a flag", bool(flag)))

    def of_chief(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the chief's arrays, given in every process arrays of the same shapes and dtypes."""
        return list(arrays)

    def portable(self, model: Any) -> Any:
        """Returns the model with variables that a SavedModel can hold; the model itself, if its variables are such."""
        return model

    def all_gather_arrays(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the arrays that the processes hold, in the order of the processes.

        Args:
            array: The array of this process, of rank 1 and a numeric dtype; the dtype is the same in all processes.

        Raises:
            UnsupportedError: `prepares_own_rows` is false for this strategy.
            WorkerError: A process did not arrive.
        """
        raise UnsupportedError(
            f"processes under {self.name!r} exchange no arrays. Prepare all rows in each of them."
        )

    def run(self, fn: Any, args: tuple[Any, ...] = (), kwargs: Any = None, options: Any = None) -> Any:
        """Runs `fn` on every part, as `tf.distribute.Strategy.run`.

        If `run` is given a placed batch, `fn` gets the data of the part, and the patches of Keras find its step.
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
    """Returns the strategy as a `Distribution`; None if stock Keras is right under it."""
    return strategy if isinstance(strategy, Distribution) and not strategy.is_stock else None


def is_foreign(strategy: Any) -> bool:
    """Returns whether a strategy is one of TensorFlow's own, which stay as they are, and not the default one."""
    return not isinstance(strategy, Distribution) and tf.distribute.get_strategy() is not strategy


def row_shards_of(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of parts into which the rows of a batch are divided, under any strategy."""
    return strategy.row_shards if isinstance(strategy, Distribution) else strategy.num_replicas_in_sync


def describe(strategy: tf.distribute.Strategy) -> str:
    """Returns the public name of a strategy, with what tells it apart, such as `mesh batch=2 model=2`."""
    if isinstance(strategy, Distribution):
        return strategy.describe()
    if strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy():
        return "one_device"
    return type(strategy).__name__
