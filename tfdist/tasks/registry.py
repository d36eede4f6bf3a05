"""The tasks by name."""

from __future__ import annotations

from tfdist.errors import ConfigError, did_you_mean
from tfdist.tasks.base import Task
from tfdist.tasks.text_classification import TextClassification
from tfdist.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {task.name: task for task in (TextClassification, TokenClassification)}


def create_task(name: str) -> Task:
    """Returns the task `name`.

    Raises:
        ConfigError: There is no such task.
    """
    if name not in TASKS:
        raise ConfigError(
            f"Unknown task {name!r}.{did_you_mean(name, TASKS)} Allowed: {', '.join(TASKS)}. "
            "Choose with --task."
        )
    return TASKS[name]()
