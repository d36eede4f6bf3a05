"""News that the processes tell each other: that one has failed, that one has ended, and the question where all are.

They are entries of one numbered list in the coordination service. A thread of each process waits for the next entry, so
that a process hears of them although its main thread waits in a collective; while there are no news, nothing is sent.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf
from tensorflow.python.eager import context

from tfdist._internals.processes.place import HERE, Place
from tfdist.process import num_processes, process_index

# Seconds that the service may take. It does not answer if its process is stopped, and has no limit of its own.
_SERVICE_S = 3.0


class _News:
    """What this process has heard."""

    def __init__(self) -> None:
        self.next = 0
        self.failure: str | None = None
        self.ended: dict[int, Place] = {}
        self.asked_at = 0.0
        self.question: int | None = None
        self.listener: threading.Thread | None = None


_news = _News()


def listen() -> None:
    """Starts to hear the news; a second call changes nothing."""
    if _news.listener is None and num_processes() > 1:
        _news.listener = threading.Thread(target=_listen, name="tfdist news", daemon=True)
        _news.listener.start()


def _listen() -> None:
    service = context.context()
    while True:
        try:
            entry = json.loads(service.get_config_key_value(f"tfdist/news/{_news.next}"))
        except tf.errors.OpError:  # the process that has the service is gone
            return
        number = _news.next
        _news.next += 1
        if entry["kind"] == "failed":
            note_failure(entry["text"])
        elif entry["kind"] == "ended":
            _news.ended[entry["from"]] = Place.read(entry["place"])
            if entry["from"] == process_index():
                return
        else:
            _news.question, _news.asked_at = number, time.monotonic()
            _send(f"tfdist/places/{number}/{process_index()}", HERE.sent())


def tell(kind: Literal["ask", "failed", "ended"], text: str = "") -> int:
    """Adds an entry to the list; returns its number."""
    number, entry = _news.next, {"kind": kind, "from": process_index(), "text": text, "place": HERE.sent()}
    while True:
        try:
            _send(f"tfdist/news/{number}", entry)
            return number
        except tf.errors.AlreadyExistsError:  # another process was faster
            number += 1


def _send(key: str, value: Any) -> None:
    context.context().set_config_key_value(key, json.dumps(value))


def failure() -> str | None:
    """Returns the first failure that a process has told, None if there is none."""
    return _news.failure


def note_failure(text: str) -> None:
    """Notes that a process has failed, in this process alone; the first failure counts, since it is the cause."""
    _news.failure = _news.failure or text


def ended() -> dict[int, Place]:
    """Returns the processes that have come to the end of their programs, with how far each had come."""
    return dict(_news.ended)


def stop_listening() -> None:
    """Hears no more news. Python must not end while the listener is in TensorFlow, to which it could not come back."""
    if _news.listener is not None and _news.listener.is_alive():
        if process_index() not in _news.ended:
            in_time(lambda: tell("ended"))
        _news.listener.join(_SERVICE_S)


def ask_places(fresh_s: float) -> dict[int, Place | None]:
    """Returns where each process is, None for one that does not answer.

    Args:
        fresh_s: If another process has asked in the last so many seconds, its answers are taken.
    """
    number = _news.question if time.monotonic() - _news.asked_at < fresh_s else None
    if number is None:
        number = in_time(lambda: tell("ask"))
    places: dict[int, Place | None] = {}
    limit = _SERVICE_S
    for index in range(num_processes()):
        places[index] = None if number is None else _place_of(number, index, limit)
        if places[index] is None:
            limit = 0.2
    return places


def _place_of(number: int, index: int, limit_s: float) -> Place | None:
    if index == process_index():
        return Place.read(HERE.sent())
    try:
        key = f"tfdist/places/{number}/{index}"
        return Place.read(json.loads(context.context().get_config_key_value(key, int(limit_s * 1000))))
    except tf.errors.OpError:
        return None


def in_time(function: Callable[[], Any]) -> Any:
    """Returns what a call to the service returns; None if it fails or takes too long."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(function())
        except (tf.errors.OpError, ValueError):  # the service is gone, or was never there
            return

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(_SERVICE_S)
    return found[0] if found else None
