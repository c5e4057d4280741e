"""``DBPOOL``, the settings that concern the whole project, as a frozen object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .alerts.reading import faults_of_alerts, read_alerts
from .fleet import FleetConfig
from .readers import (
    ConfigError,
    Fault,
    Rejected,
    boolean,
    choice,
    count,
    hinting,
    optional,
    read_mapping,
    reject,
    seconds,
)
from .readiness import ReadinessConfig
from .tokens import faults_of_tokens, read_tokens

RawAccess = Literal["allow", "warn", "error"]
Role = Literal["web", "worker", "command"]
LogFormat = Literal["text", "json"]

FAULT_IN_DBPOOL = "dbpool.E003"


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """Fields have the names of the keys, in lower case."""

    raw_access: RawAccess = "allow"
    session_from_request: str | Callable[[Any], Mapping[str, Any]] | None = None
    processes: int | None = None
    """How many processes use the databases; only checks read it."""
    threads: int | None = None
    """Threads per process that use the databases at one time; only checks read it."""
    worker_timeout: float | None = None
    """Seconds after which the application server kills a worker that doesn't answer; only checks read it."""
    budget: int | None = None
    """Connections that this project may take of one server, all processes together; only checks read it."""
    role: Role | None = None
    """What processes with these settings do, where one code base has several settings."""
    slow_statement: float | None = 3.0
    """Seconds from which on a statement is reported; None: none is."""
    repeated_statements: int | None = 50
    """How often one unit of work may execute the same statement before it is reported; None: as often as it likes."""
    leak_stacks: bool = False
    """Whether each lease takes down where it was begun."""
    spawn_limit: int | None = 64
    """Threads that ``threads.spawn()`` may have running in one process; None: as many as the system allows."""
    fleet: FleetConfig = field(default_factory=FleetConfig)
    """Where processes publish what they do."""
    readiness: ReadinessConfig = field(default_factory=ReadinessConfig)
    """What makes a process not ready for requests."""
    socket: bool | str = True
    """Whether each process can be asked on its host, or the directory in which its socket then is."""
    secret: str | None = field(default=None, repr=False)
    """Signs commands to processes on other hosts; None: SECRET_KEY does."""
    log_interval: float | None = None
    """Seconds between two blocks on the logger ``django_dbpool.metrics``."""
    log_format: LogFormat = "text"
    alerts: Mapping[str, Mapping[str, Any] | None] | None = field(default_factory=dict)
    """By the name of a rule what is different in it, or None to switch it off; None: no alerts."""
    batch_retention: int | None = 30
    """Days for which runs of batches that have ended are remembered; None: for ever."""
    batch_restarts: int = 5
    """How often a run whose runner is dead is sent again without a single batch in between."""
    tokens: tuple[str, ...] = field(default=(), repr=False)
    """SHA-256 digests, in hexadecimal digits, of the bearer tokens that the endpoints take."""

    @classmethod
    def from_mapping(cls, options: object, *, where: str = "DBPOOL") -> ProjectConfig:
        """
        Raises:
            ConfigError: with every fault found.
        """
        if not isinstance(options, Mapping):
            kind = type(options).__name__
            fault = Fault("", f"must be a dictionary, not {kind}.", 'Write {"RAW_ACCESS": "warn"}.', FAULT_IN_DBPOOL)
            raise ConfigError(where, (fault,))
        values, faults = read_mapping(options, _READERS, check=FAULT_IN_DBPOOL)
        faults += [fault for fault in faults_of_alerts(values.get("ALERTS")) if fault.refused]
        faults += [fault for fault in faults_of_tokens(values.get("TOKENS", ())) if fault.refused]
        if faults:
            raise ConfigError(where, tuple(faults))
        return cls(**{key.lower(): value for key, value in values.items()})

    def process_count(self, environ: Mapping[str, str]) -> tuple[int, str]:
        """
        How many processes to reckon with, and which setting says so: ``PROCESSES``, else ``WEB_CONCURRENCY``, from
        which gunicorn, uvicorn and the platforms that set it take their number of workers. Else one, and "".
        """
        if self.processes is not None:
            return self.processes, f'DBPOOL["PROCESSES"] = {self.processes}'
        hint = environ.get("WEB_CONCURRENCY", "").strip()
        if self.role in (None, "web") and hint.isascii() and hint.isdecimal() and 0 < len(hint) < 6 and int(hint):
            return int(hint), f"WEB_CONCURRENCY = {hint}"
        return 1, ""


def _function(raw: Any) -> Any:
    if callable(raw) or (isinstance(raw, str) and "." in raw):
        return raw
    raise reject("is neither a function nor the dotted path of one.", 'Write "myproject.tenants.session_of".')


def _socket(raw: Any) -> bool | str:
    if isinstance(raw, bool):
        return raw
    text = str(raw) if isinstance(raw, Path) else raw
    if not isinstance(text, str) or not Path(text).is_absolute() or "\0" in text:
        raise reject(
            "is neither a boolean nor a directory.",
            'Write True, False, or the absolute path of a directory, such as "/run/shop".',
        )
    return text


def _secret(raw: Any) -> str:
    if not isinstance(raw, str) or len(raw) < SHORTEST_SECRET:
        hint = f"Write a random string of at least {SHORTEST_SECRET} characters, or None to use SECRET_KEY."
        raise Rejected("is no secret.", hint, secret=True)
    return raw


SHORTEST_SECRET = 16

_READERS: dict[str, Callable[[Any], Any]] = {
    "RAW_ACCESS": choice(
        "way to treat access to the raw connection",
        allow="the connection is kept and closed afterwards",
        warn="the same, with a warning that names the caller",
        error="refused",
    ),
    "SESSION_FROM_REQUEST": optional(_function),
    "PROCESSES": optional(count(1)),
    "THREADS": optional(count(1)),
    "WORKER_TIMEOUT": optional(seconds(above_zero=True)),
    "BUDGET": optional(count(1)),
    "ROLE": optional(
        choice(
            "role of a process",
            web="answers requests",
            worker="runs tasks",
            command="runs management commands and scripts",
        )
    ),
    "SLOW_STATEMENT": optional(hinting(seconds(above_zero=True), "None reports no statement.")),
    "REPEATED_STATEMENTS": optional(hinting(count(2), "None reports no statement.")),
    "LEAK_STACKS": boolean,
    "SPAWN_LIMIT": optional(count(1)),
    "FLEET": FleetConfig.read,
    "READINESS": ReadinessConfig.read,
    "SOCKET": _socket,
    "SECRET": optional(_secret),
    "LOG_INTERVAL": optional(seconds(above_zero=True)),
    "LOG_FORMAT": choice("format", text="blocks for people", json="one object per line and database"),
    "ALERTS": optional(read_alerts),
    "BATCH_RETENTION": optional(hinting(count(1), "It counts days. None keeps runs for ever.")),
    "BATCH_RESTARTS": hinting(count(0), "0 sends nothing again."),
    "TOKENS": read_tokens,
}

assert set(_READERS) == {item.name.upper() for item in fields(ProjectConfig)}, "a key without a reader"
