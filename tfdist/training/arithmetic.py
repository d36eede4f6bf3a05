"""How many examples a batch has, and how many steps a run has; plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfdist.config.schema import TrainingConfig
from tfdist.errors import ConfigError


@dataclass(frozen=True)
class Steps:
    """The training steps (batches) of a run.

    Attributes:
        total: Steps of the whole run.
        of_epoch: Steps of an epoch, which is one pass over the training split.
    """

    total: int
    of_epoch: int

    @property
    def num_epochs(self) -> int:
        """Epochs that the run begins; the last one may be cut short."""
        return math.ceil(self.total / self.of_epoch)

    @property
    def num_whole_epochs(self) -> int:
        """Epochs that the run trains to their end."""
        return self.total // self.of_epoch

    @property
    def in_last_epoch(self) -> int:
        """Steps of the last epoch, which may be fewer than those of the others."""
        return self.total % self.of_epoch or self.of_epoch

    def num_updates(self, accumulation: int | None) -> int:
        """Returns the number of the optimizer's updates; each takes `accumulation` batches, or one if it is None."""
        return max(1, self.total // (accumulation or 1))


def count_steps(training: TrainingConfig, num_examples: int, batch_size: int) -> Steps:
    """Returns the training steps of the run."""
    of_epoch = math.ceil(num_examples / batch_size)
    total = training.epochs * of_epoch
    return Steps(total if training.max_steps is None else min(total, training.max_steps), of_epoch)


def batch_size_of(training: TrainingConfig, num_replicas: int) -> int:
    """Returns the number of examples in one batch: the global batch size divided by the accumulation.

    Args:
        training: Global batch size and accumulation.
        num_replicas: Replicas over all processes.

    Raises:
        ConfigError: The global batch does not divide into batches, or gives a replica nothing to do.
    """
    accumulation = training.gradient_accumulation_steps or 1
    batch_size, rest = divmod(training.global_batch_size, accumulation)
    if rest:
        raise ConfigError(
            f"The global batch size {training.global_batch_size} is no multiple of the {accumulation} "
            "accumulated batches. Change --global-batch-size or training.gradient_accumulation_steps."
        )
    if batch_size < num_replicas:
        raise ConfigError(
            f"The global batch size {training.global_batch_size} gives batches of {batch_size} examples, "
            f"fewer than the {num_replicas} replicas. Give --global-batch-size of at least "
            f"{num_replicas * accumulation}, or fewer devices."
        )
    return batch_size
