"""The log as JSON lines: what an alert or a filter has to work with."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testproject.reports.errors import name_of

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "request"}


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info and record.exc_info[1]
        tags = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = {
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "error": name_of(error) if isinstance(error, Exception) else None,
            "stack": self.formatException(record.exc_info) if error and record.exc_info else None,
            "tags": tags,
        }
        return json.dumps(line, default=str)


@dataclass(frozen=True)
class Line:
    level: str
    logger: str
    message: str
    error: str | None
    """Its class, and its SQLSTATE where it has one."""
    stack: str | None
    tags: dict[str, Any]

    @property
    def is_alarm(self) -> bool:
        return self.level in ("ERROR", "CRITICAL")

    @property
    def is_expected(self) -> bool:
        return self.tags.get("severity") == "expected"


def read(path: Path) -> list[Line]:
    return list(_lines(path))


def _lines(path: Path) -> Iterator[Line]:
    with path.open() as file:
        for line in file:
            yield Line(**json.loads(line))
