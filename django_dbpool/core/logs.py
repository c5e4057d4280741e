"""The package's loggers: what a project's filters and handlers raise is told, and costs nobody else anything."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from functools import partial


def get_logger(name: str) -> logging.Logger:
    """
    The logger of that name. ``logging`` catches what happens while a record is written, but not what a filter raises:
    that would come out of the call in the middle of a lease's end or of the upkeep of all pools. Here it is written to
    the standard error output, as ``logging`` does with the others, unless ``logging.raiseExceptions`` is off.
    """
    logger = logging.getLogger(name)
    # Of this object only: another class could be had only by setLoggerClass(), for all that is imported meanwhile.
    logger.handle = partial(_handle, logger)  # type: ignore[method-assign]
    return logger


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    try:
        type(logger).handle(logger, record)
    except Exception as error:  # noqa: BLE001  # whatever a project's filter raises
        _tell(error)


def _tell(error: Exception) -> None:
    if logging.raiseExceptions and sys.stderr:
        with suppress(Exception):  # a daemon's output can be closed, or a pipe that nobody reads any more
            traceback.print_exception(error)
