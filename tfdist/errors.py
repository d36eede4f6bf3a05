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


class SelfCheckError(TfdistError):
    """A training step is not that of one device; nothing was changed."""


class WorkerError(TfdistError):
    """A worker process failed, stopped or did not arrive in time."""


class MissingPackageError(TfdistError, ImportError):
    """A library that only an optional extra brings is not installed."""


# Top-level module -> the extra that brings it.
_EXTRAS = {
    "keras_hub": "hub",
    "safetensors": "text",
    "seqeval": "text",
    "tensorboard": "text",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "tfds",
    "tokenizers": "text",
}


def explain_missing(error: ModuleNotFoundError) -> MissingPackageError | None:
    """Returns an error that says which extra to install, or None if `error` is about no optional library."""
    module = (error.name or "").partition(".")[0]
    if module not in _EXTRAS:
        return None
    extra = _EXTRAS[module]
    others = " (or [cuda] on GPUs, [tpu] on TPUs)" if extra == "tensorflow" else ""
    return MissingPackageError(
        f"The library {module!r} is not installed. Install it with: pip install 'tfdist[{extra}]'{others}."
    )


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the nearest of `allowed`, or an empty string."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
