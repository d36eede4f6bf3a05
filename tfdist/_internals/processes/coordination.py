"""Processes exchange small values over TensorFlow's coordination service: no collectives, and every wait is limited.

The key-value store of this service has no public name, so this module reaches into `tensorflow.python.eager.context`.
Every process must make the same calls in the same order. A sequence number keeps calls of one name apart.
"""

from __future__ import annotations

import json
import time
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from tfdist._internals.processes import news
from tfdist._internals.processes.place import in_meeting
from tfdist._internals.processes.roll_call import Patience, listed, raise_failure, who_is_missing
from tfdist.errors import WorkerError
from tfdist.process import num_processes, process_index

# A wait is made of short ones, so that a failure of another process is heard.
_SLICE_S = 1.0

_default_timeout_s = 300.0
_failed = False


def set_default_timeout(timeout_s: float) -> None:
    """Sets how many seconds a meeting of the processes waits if its caller gives no time."""
    global _default_timeout_s
    _default_timeout_s = timeout_s


def default_timeout() -> float:
    """Returns how many seconds a meeting of the processes waits if its caller gives no time."""
    return _default_timeout_s


def all_gather_json(name: str, value: Any, timeout_s: float | None = None) -> list[Any]:
    """Returns the JSON-able `value` of every process, in the order of their indices.

    Raises:
        WorkerError: Some process did not arrive within `timeout_s` seconds, has failed or ended, or waits for this one
            at another place of its program. The message names it.
    """
    if num_processes() == 1:
        return [value]
    timeout_s = _default_timeout_s if timeout_s is None else timeout_s
    deadline, patience = time.monotonic() + timeout_s, Patience()
    found: dict[int, Any] = {}
    with in_meeting(name) as number:
        prefix = f"tfdist/{name}/{number}"
        try:
            context.context().set_config_key_value(f"{prefix}/{process_index()}", json.dumps(value))
            for index in range(num_processes()):
                text = _wait_for(f"{prefix}/{index}", deadline, patience)
                if text is not None:
                    found[index] = json.loads(text)
        except tf.errors.OpError as error:
            time.sleep(0.2)  # what the others have told may be on its way
            raise_failure()
            raise WorkerError(
                f"worker {process_index()} of {num_processes()} lost the others at {name!r}: {who_is_missing()}. Look "
                f"at the output of the others first. TensorFlow says: {error.message}"
            ) from error
        missing = [index for index in range(num_processes()) if index not in found]
        if missing:
            raise WorkerError(
                f"{listed(missing)} did not arrive at {name!r} within {timeout_s:g} s (this is worker "
                f"{process_index()} of {num_processes()}): {who_is_missing()}. Look at the output of the missing "
                "worker; if it is only slow, give create_strategy a larger timeout_s."
            )
    return [found[index] for index in range(num_processes())]


def _wait_for(key: str, deadline: float, patience: Patience) -> str | None:
    """Returns what a process has set under the key; None if it did not before the deadline."""
    while True:
        left = deadline - time.monotonic()
        try:
            # After the deadline each of the others gets a moment, so that all who are missing are named.
            limit_s = min(max(left, 0.1), _SLICE_S)
            return str(context.context().get_config_key_value(key, int(limit_s * 1000)))
        except tf.errors.DeadlineExceededError:
            if left <= 0:
                return None
            patience.check()


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
    if (
        num_processes() == 1 or news.failure() is not None
    ):  # the others know the first failure, which is the cause
        return
    news.note_failure(message)
    # If the service is gone, an error or a wait here must not hide the first traceback.
    news.in_time(lambda: news.tell("failed", message))
    news.in_time(lambda: context.context().report_error_to_cluster(tf.errors.INTERNAL, message))


def has_failed() -> bool:
    """Whether this process has reported a failure of its own."""
    return _failed
