"""The exceptions that tfdist raises on purpose.

Every message says what is wrong, what was given, what is allowed, and one cure. The command line turns a
`TfdistError` into that message and an exit code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TfdistError(Exception):
    """Base of all errors that a user can cause or cure. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(TfdistError):
    """A setting, flag or configuration file is wrong."""

    exit_code = 2


class ClusterError(TfdistError):
    """The description of the cluster, or the cluster itself, does not fit."""


class DataError(TfdistError):
    """A data file, split, column or label is missing or malformed."""


class ModelError(TfdistError):
    """A model, weights or tokenizer file is missing or does not fit."""


class OutputError(TfdistError):
    """A file or folder of results cannot be written."""


class UnsupportedError(TfdistError):
    """A combination that tfdist cannot train correctly, refused before it starts."""


class WorkerError(TfdistError):
    """A worker process failed, stopped or did not arrive in time."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the nearest of `allowed`, or an empty string."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
