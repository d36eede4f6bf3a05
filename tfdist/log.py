"""One logger for the package; standard library only."""

from __future__ import annotations

import logging
from functools import cache

LOGGER = logging.getLogger("tfdist")


@cache
def warn_once(message: str) -> None:
    """Logs `message` as a warning the first time that it is given in this process."""
    LOGGER.warning(message)


@cache
def inform_once(message: str) -> None:
    """Logs `message` as information the first time that it is given in this process."""
    LOGGER.info(message)
