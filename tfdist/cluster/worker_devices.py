"""How many devices each worker uses, as `tfdist launch` tells its workers in the environment."""

from __future__ import annotations

from collections.abc import Mapping

from tfdist.errors import ConfigError

DEVICES_PER_WORKER = "TFDIST_DEVICES_PER_WORKER"


def devices_per_worker(environ: Mapping[str, str]) -> int | None:
    """Returns the number of devices of each worker that the environment asks for, or None.

    Raises:
        ConfigError: It is no whole number of at least 1.
    """
    text = environ.get(DEVICES_PER_WORKER)
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(
            f"{DEVICES_PER_WORKER}={text!r} is no number of devices; it must be a whole number of at least 1. "
            "Correct the variable, or unset it to train on all GPUs of the worker, or on its CPU."
        )
    return int(text)
