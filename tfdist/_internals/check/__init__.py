"""The self check: before the first step of a training function counts, it is done twice and compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras

from tfdist._internals.check import report
from tfdist._internals.check.kept import kept_state
from tfdist._internals.check.result import Result
from tfdist._internals.check.selfcheck import (
    CannotCheckError,
    NoMemoryError,
    Program,
    Trial,
    check_step,
    make_variables,
)
from tfdist._internals.check.variables import optimizers_of
from tfdist._internals.contract import Distribution
from tfdist._internals.processes.coordination import all_gather_json
from tfdist.errors import ConfigError, SelfCheckError
from tfdist.log import LOGGER

ENVIRONMENT = "TFDIST_SELF_CHECK"
MODES = ("on", "warn", "off")

__all__ = [
    "ENVIRONMENT",
    "MODES",
    "Checked",
    "Program",
    "Trial",
    "check_first_step",
    "kept_state",
    "mode_of",
    "needs_first_step",
    "stopping_after",
]


class Checked(BaseException):
    """The first step was checked, and nothing more is wanted; no `except Exception` of a script takes it."""


_stops: list[bool] = []


@contextmanager
def stopping_after() -> Iterator[None]:
    """While open, a check that is passed raises `Checked`, so that no step is trained."""
    _stops.append(True)
    try:
        yield
    finally:
        _stops.pop()


def mode_of(given: str | None) -> str:
    """Returns the mode of the check: of the environment, as given, or `"on"`.

    Raises:
        ConfigError: A mode that there is not.
    """
    text = os.environ.get(ENVIRONMENT)
    for origin, mode in ((ENVIRONMENT, text), ("self_check", given)):
        if mode not in (None, "", *MODES):
            raise ConfigError(f"{origin}={mode!r} is not possible; it is one of {list(MODES)}. Give 'on'.")
    return text or given or "on"


def needs_first_step(distribution: Distribution, model: keras.Model) -> bool:
    """Returns whether the first step is to be checked, or must make variables."""
    return distribution.self_check != "off" or not all(
        part.built for part in (*model._flatten_layers(include_self=False), *optimizers_of(model))
    )


def check_first_step(
    distribution: Distribution, model: keras.Model, trials: Sequence[Trial], show: bool
) -> None:
    """Checks a training step before it counts, and makes the variables that it would make; see `check_step`.

    Args:
        distribution: The strategy.
        model: The model.
        trials: The ways to do the step. The next one is taken where a device has not the memory for the one before.
        show: Whether a line tells that the check was passed.

    Raises:
        SelfCheckError: It is not the step of one device, and the strategy's mode is `"on"`; or it cannot be checked,
            and nothing else is wanted (`stopping_after`).
    """
    if distribution.self_check == "off":
        make_variables(distribution, model, trials[0].take_sample())
        return
    result, reason, fails = _tried(distribution, model, trials)
    if reason:
        LOGGER.warning(reason)
    if not fails:
        if _stops and result is None:
            raise SelfCheckError(reason)
        if _stops and result is not None:
            raise Checked(report.passed(result))
        if result is not None and show:
            print(report.passed(result), flush=True)
        return
    # The sums are a collective, in which all processes take part.
    error_of_sums = distribution.sum_error()
    message = report.failed(result, error_of_sums) if result is not None and result.fails else None
    messages = all_gather_json("self check's message", message)
    wrong = next(text for text in messages if text)
    if len(messages) > 1:
        wrong = f"worker {messages.index(wrong)}: {wrong}"
    if distribution.self_check == "on":
        raise SelfCheckError(wrong)
    LOGGER.warning(wrong)


def _tried(
    distribution: Distribution, model: keras.Model, trials: Sequence[Trial]
) -> tuple[Result | None, str, bool]:
    """Returns what the check found, why it was not done, and whether it failed in any process."""
    for trial in trials:
        result, reason, too_large = None, "", False
        try:
            result = check_step(distribution, model, trial)
        except CannotCheckError as error:
            reason, too_large = f"self check: not done, since {error}.", isinstance(error, NoMemoryError)
        told = all_gather_json("self check", [result is not None and result.fails, too_large])
        fails, too_large = (any(flags) for flags in zip(*told, strict=True))
        if not too_large:
            break
    return result, reason, fails
