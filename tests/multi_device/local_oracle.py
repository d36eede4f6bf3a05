"""Local steps as plain NumPy: replicas that each train a linear model by themselves, and average after each round.

`mean((x @ w - y) ** 2)` is the loss, of shape `(rows, outputs)`. No code of the package is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Outer(NamedTuple):
    """The outer update: its name, step size and momentum."""

    name: str = "average"
    learning_rate: float = 1.0
    momentum: float = 0.0


class Replica:
    """One replica: its weights, and the state of its optimizer.

    Args:
        weights: Of shape `(inputs, outputs)`.
        optimizer: `"sgd"`, `"momentum"` (0.9) or `"adam"` with Keras's defaults.
        learning_rate: Returns the learning rate of an update, given its number from 0.
        clipnorm: The bound of the gradient's norm, if any.
    """

    def __init__(
        self,
        weights: np.ndarray,
        optimizer: str,
        learning_rate: Callable[[int], float],
        clipnorm: float | None = None,
    ) -> None:
        self.weights = weights.astype(np.float64)
        self.first, self.second = np.zeros_like(self.weights), np.zeros_like(self.weights)
        self.optimizer, self.learning_rate, self.clipnorm = optimizer, learning_rate, clipnorm
        self.updates = 0

    def gradient(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns the gradient of the mean over these rows; zeros if there are none."""
        if not len(x):
            return np.zeros_like(self.weights)
        return 2 * x.T @ (x @ self.weights - y) / y.size

    def update(self, gradient: np.ndarray) -> None:
        """Makes one update."""
        if self.clipnorm is not None:
            gradient = gradient * min(1.0, self.clipnorm / max(np.linalg.norm(gradient), 1e-30))
        rate = self.learning_rate(self.updates)
        self.updates += 1
        if self.optimizer == "sgd":
            self.weights = self.weights - rate * gradient
        elif self.optimizer == "momentum":
            self.first = 0.9 * self.first - rate * gradient
            self.weights = self.weights + self.first
        else:
            self.first = 0.9 * self.first + 0.1 * gradient
            self.second = 0.999 * self.second + 0.001 * gradient**2
            # Keras rounds the numbers that it takes powers of to float32, whatever the dtype of the weights.
            first, second = (1 - float(np.float32(decay)) ** self.updates for decay in (0.9, 0.999))
            scaled = rate * np.sqrt(second) / first
            self.weights = self.weights - scaled * self.first / (np.sqrt(self.second) + 1e-7)


class LocalTraining:
    """Replicas that train together.

    Args:
        replicas: Each with the same weights.
        num_updates: The updates of a round.
        outer: What follows the average.
        accumulation: The batches of an update.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        num_updates: int,
        outer: Outer | None = None,
        accumulation: int = 1,
    ) -> None:
        self.replicas, self.num_updates, self.outer = replicas, num_updates, outer or Outer()
        self.accumulation = accumulation
        self.momentum = np.zeros_like(replicas[0].weights)
        self.num_synchronizations = 0
        self.losses: list[float] = []
        self._waiting: list[list[np.ndarray]] = [[] for _ in replicas]
        self._begin()

    def _begin(self) -> None:
        self.begin = self.replicas[0].weights.copy()
        self.rows = np.zeros(len(self.replicas))
        self.rates: list[float] = []
        self.steps = self.updates = 0

    def epoch(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> None:
        """Trains on the rows in order; the round that is open at the end of the epoch ends there."""
        total = 0.0
        for start in range(0, len(x), batch_size):
            total += self.step(x[start : start + batch_size], y[start : start + batch_size])
        self.losses.append(total / y.size)
        self.synchronize()

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Trains on a global batch, of which replica `r` of `n` has the rows from `r * rows // n`.

        Returns:
            The sum of the squared errors before the update, of all rows.
        """
        count = len(self.replicas)
        cuts = [slice(index * len(x) // count, (index + 1) * len(x) // count) for index in range(count)]
        return self.step_on([(x[cut], y[cut]) for cut in cuts])

    def step_on(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        """Trains each replica on rows of its own; returns the sum of the squared errors before the update."""
        total = 0.0
        self.rates.append(self.replicas[0].learning_rate(self.replicas[0].updates))
        for index, (replica, (x, y)) in enumerate(zip(self.replicas, parts, strict=True)):
            self.rows[index] += len(x)
            total += float(np.sum((x @ replica.weights - y) ** 2))
            waiting = self._waiting[index]
            waiting.append(replica.gradient(x, y))
            if len(waiting) == self.accumulation:
                replica.update(sum(waiting) / self.accumulation)
                waiting.clear()
        self.steps += 1
        self.updates += not self._waiting[0]
        if self.updates == self.num_updates:
            self.synchronize()
        return total

    def synchronize(self) -> None:
        """Ends a round, if one is open."""
        if not self.steps:
            return
        parts = self.rows / self.rows.sum()
        average = sum(part * one.weights for part, one in zip(parts, self.replicas, strict=True))
        self.drift = np.linalg.norm(self.replicas[0].weights - average) / np.linalg.norm(average)
        moved = self.begin - average
        if self.outer.name == "average":
            new = average
        elif self.outer.name == "nesterov":
            self.momentum = self.outer.momentum * self.momentum + moved
            new = self.begin - self.outer.learning_rate * (moved + self.outer.momentum * self.momentum)
        else:
            rate = float(np.mean(self.rates))
            self.momentum = self.outer.momentum * self.momentum + moved / rate
            new = self.begin - self.outer.learning_rate * rate * self.momentum
        for replica in self.replicas:
            replica.weights = new.copy()
        self.num_synchronizations += 1
        self._begin()

    def average_slots(self) -> None:
        """Gives all replicas the mean of their slots."""
        for name in ("first", "second"):
            mean = sum(getattr(replica, name) for replica in self.replicas) / len(self.replicas)
            for replica in self.replicas:
                setattr(replica, name, mean.copy())


def local_training(
    weights: np.ndarray,
    num_replicas: int,
    num_updates: int,
    optimizer: str = "sgd",
    learning_rate: float | Callable[[int], float] = 0.1,
    outer: Outer | None = None,
    clipnorm: float | None = None,
    accumulation: int = 1,
) -> LocalTraining:
    """Returns replicas of a linear model that train together."""
    rate = learning_rate if callable(learning_rate) else lambda update: learning_rate
    replicas = [Replica(weights, optimizer, rate, clipnorm) for _ in range(num_replicas)]
    return LocalTraining(replicas, num_updates, outer, accumulation)
