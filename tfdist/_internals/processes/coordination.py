"""Processes exchange small values over TensorFlow's coordination service: no collectives, and every wait is limited.

The key-value store of this service has no public name, so this module reaches into `tensorflow.python.eager.context`.
Every process must make the same calls in the same order. A sequence number keeps calls of one name apart.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from tfdist.errors import WorkerError
from tfdist.process import num_processes, process_index

_calls: Counter[str] = Counter()
_default_timeout_s = 300.0
_failed = False


def set_default_timeout(timeout_s: float) -> None:
    """Sets how many seconds a meeting of the processes waits if its caller gives no time."""
    global _default_timeout_s
    _default_timeout_s = timeout_s


def all_gather_json(name: str, value: Any, timeout_s: float | None = None) -> list[Any]:
    """Returns the JSON-able `value` of every process, in the order of their indices.

    Raises:
        WorkerError: Some process did not arrive within `timeout_s` seconds, and the message names it; or one has
            failed or ended.
    """
    if num_processes() == 1:
        return [value]
    timeout_s = _default_timeout_s if timeout_s is None else timeout_s
    _calls[name] += 1
    prefix = f"tfdist/{name}/{_calls[name]}"
    service = context.context()
    service.set_config_key_value(f"{prefix}/{process_index()}", json.dumps(value))
    values: list[Any] = []
    missing: list[int] = []
    for index in range(num_processes()):
        # Once one process is missing, each of the others gets a second only, so that the limit holds for all together.
        limit = 1.0 if missing else timeout_s
        try:
            values.append(json.loads(service.get_config_key_value(f"{prefix}/{index}", int(limit * 1000))))
        except tf.errors.DeadlineExceededError as error:
            missing.append(index)
            cause = error
        except tf.errors.OpError as error:
            raise WorkerError(
                f"worker {process_index()} of {num_processes()} lost the others at {name!r}: one has failed or ended. "
                f"Look at the output of the others first. TensorFlow says: {error.message}"
            ) from error
    if missing:
        raise WorkerError(
            f"worker {', '.join(map(str, missing))} did not arrive at {name!r} within {timeout_s:g} s "
            f"(this is worker {process_index()} of {num_processes()}). Look at the output of the missing worker; "
            "if it is only slow, give create_strategy a larger timeout_s."
        ) from cause
    return values


def barrier(name: str, timeout_s: float | None = None) -> None:
    """Waits until every process is here.

    Raises:
        WorkerError: Some process did not arrive, and the message names it; or one has failed or ended.
    """
    all_gather_json(f"barrier/{name}", None, timeout_s)


def broadcast_json(name: str, value: Any, timeout_s: float | None = None) -> Any:
    """Returns the chief's `value` in every process."""
    return all_gather_json(f"broadcast/{name}", value if process_index() == 0 else None, timeout_s)[0]


def agree(name: str, value: Any, timeout_s: float | None = None) -> None:
    """Checks that `value` is the same in every process.

    Raises:
        WorkerError: It is not; the message gives each worker's value.
    """
    values = all_gather_json(f"agree/{name}", value, timeout_s)
    if any(other != values[0] for other in values):
        listed = "; ".join(f"worker {index}: {other!r}" for index, other in enumerate(values))
        raise WorkerError(
            f"the workers do not agree on {name}: {listed}. All workers must run the same script with the same "
            "settings; start them with the same command."
        )


def report_failure(message: str) -> None:
    """Tells the other processes that this one has failed, so that they do not wait in a collective for ever."""
    global _failed
    _failed = True
    if num_processes() > 1:
        # If this is a second failure, or the service is gone, an error here must not hide the first traceback.
        try:
            context.context().report_error_to_cluster(tf.errors.INTERNAL, message)
        except (tf.errors.OpError, ValueError):
            return


def has_failed() -> bool:
    """Whether this process has reported a failure of its own."""
    return _failed
