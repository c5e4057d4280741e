"""
Broken configurations, each with the check that names it. What is refused is refused at run time with the same text,
and nothing is repaired in silence or ends in a bare TypeError.
"""

from __future__ import annotations

import copy
import math
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_dbpool import conf
from django_dbpool.conf.packages import faults_of_packages
from django_dbpool.core.config import PoolConfig
from django_dbpool.core.project import ProjectConfig

OURS = "django_dbpool.backends.postgresql"
FIRST = "django_dbpool.middleware.DatabasePoolMiddleware"
POOLED = {"max_size": 10}


def not_a_function() -> None: ...


async def asynchronous(unit: object) -> str:
    return str(unit)


NOT_CALLABLE = 7


@dataclass(frozen=True)
class Broken:
    """One row: what is written, and what must be said about it."""

    check: str
    text: str
    hint: str
    database: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def pool(check: str, text: str, hint: str, database: dict[str, Any] | None = None, **keys: Any) -> Broken:
    """A fault in POOL; `database` is what the alias has beside it."""
    return Broken(check, text, hint, {"POOL": keys, **(database or {})})


def options(check: str, text: str, hint: str, **given: Any) -> Broken:
    return Broken(check, text, hint, {"OPTIONS": given})


def project(check: str, text: str, hint: str, database: dict[str, Any] | None = None, **keys: Any) -> Broken:
    return Broken(check, text, hint, database or {}, {"DBPOOL": keys})


FLEET_ERRORS = {26, 27, 28}
TOKEN_ERRORS = {34, 35}
FLEET_WARNINGS = {36, 37, 38}
READINESS_ERRORS = {36}
READINESS_WARNINGS = {46}
TOKEN_WARNINGS = {44, 45}

SITE = "tests.fixtures.api_site"
DIGEST = sha256(b"a token").hexdigest()

SHARED: dict[str, Any] = {"DISABLE_SERVER_SIDE_CURSORS": True}
LIMITED: dict[str, Any] = {"lock_timeout": 2, "session": {"a.b": 1}}
BOUND: dict[str, Any] = {"OPTIONS": {"server_side_binding": True}}

TABLE: list[Broken] = [
    # E001: one key of POOL
    Broken("dbpool.E001", "is an empty dictionary", "True for the defaults", {"POOL": {}}),
    Broken("dbpool.E001", "must be a dictionary, not NoneType", "True for the defaults", {"POOL": None}),
    Broken("dbpool.E001", "must be a dictionary, not int", "True for the defaults", {"POOL": 20}),
    Broken("dbpool.E001", "must be a dictionary, not str", 'Write {"max_size": 10}', {"POOL": "on"}),
    Broken("dbpool.E001", "must be a dictionary, not list", 'Write {"max_size": 10}', {"POOL": [("max_size", 3)]}),
    Broken("dbpool.E001", '["OPTIONS"]["pool"]: unknown key', "'max_size'?", {"OPTIONS": {"pool": {"maxsize": 3}}}),
    pool("dbpool.E001", "unknown key 'maxsize'", "Did you mean 'max_size'?", maxsize=3),
    pool("dbpool.E001", "unknown key 'MAX_SIZE'", "Did you mean 'max_size'?", MAX_SIZE=3),
    pool("dbpool.E001", "unknown key 'max_overflow'", "Known keys: breaker, check_idle", max_overflow=3),
    pool("dbpool.E001", "unknown key 'num_workers'", "Known keys:", num_workers=3),
    Broken("dbpool.E001", "unknown key 7.", "Known keys:", {"POOL": {7: 1}}),
    Broken("dbpool.E001", "unknown key b'max_size'.", "Did you mean 'max_size'?", {"POOL": {b"max_size": 1}}),
    Broken("dbpool.E001", "unknown key None.", "Known keys:", {"POOL": {None: 1}}),
    pool("dbpool.E001", "enabled = 'yes' is not a boolean", "True or False", enabled="yes"),
    pool("dbpool.E001", "enabled = 0 is not a boolean", "True or False", enabled=0),
    pool("dbpool.E001", "commit_status = 'ask' is not a boolean", "True or False", commit_status="ask"),
    pool("dbpool.E001", "mode = 'statement' is not a mode", '"transaction" (lend for one', mode="statement"),
    pool("dbpool.E001", "min_size (12) is above max_size (10)", "Lower min_size", min_size=12),
    pool("dbpool.E001", "max_size = '20' is not a whole number", "int('20')", max_size="20"),
    pool("dbpool.E001", "max_size = 0 is not a whole number", "at least 1", max_size=0),
    pool("dbpool.E001", "max_size = 10.0 is not a whole number", "at least 1", max_size=10.0),
    pool("dbpool.E001", "timeout = '10s' is not a number", "Write 10: a number of seconds", timeout="10s"),
    pool("dbpool.E001", "timeout = None is not a number", "above 0", timeout=None),
    pool("dbpool.E001", "timeout = nan is not a number", "above 0", timeout=math.nan),
    pool("dbpool.E001", "timeout = inf is not a number", "at most", timeout=math.inf),
    pool("dbpool.E001", "max_waiting = -1 is not", "at least 0", max_waiting=-1),
    pool("dbpool.E001", "keepalives_idle = 40000 is not", "at most 32767", keepalives_idle=40000),
    pool("dbpool.E001", "tcp_user_timeout = 0.0001 is not", "rounded to 0", tcp_user_timeout=0.0001),
    pool("dbpool.E001", "statement_timeout = 0 is not", "above 0", statement_timeout=0),
    pool("dbpool.E001", "statement_timeout = 3600000 is not", "not milliseconds", statement_timeout=3_600_000),
    pool("dbpool.E001", "pooler = True is not a pooling mode", '"session" (the pooler keeps', pooler=True),
    pool("dbpool.E001", "prepare = 5 is not a dictionary", '{"after": 2, "max": 10}', prepare=5),
    pool("dbpool.E001", "has faults: after = '2' is not", "to prepare nothing", prepare={"after": "2"}),
    pool("dbpool.E001", "session = 'a=1' is not a dictionary", "names and values", session="a=1"),
    pool("dbpool.E001", "no setting of the server can have: 'a b'", "app.tenant", session={"a b": 1}),
    pool("dbpool.E001", "has a value of type NoneType for 'a'", "a number", session={"a": None}),
    pool("dbpool.E001", "has 'A' twice", "keep one", session={"a": 1, "A": 2}),
    pool("dbpool.E001", "reset = None is not a reset mode", '"always" (reset every', reset=None),
    pool("dbpool.E001", "leak_after = True is not a number", "above 0", leak_after=True),
    pool("dbpool.E001", "warm = 10 is not a boolean", "True or False", warm=10),
    # E002, E013, E005, E006: the rest of the alias
    Broken("dbpool.E002", "CONN_MAX_AGE = 600.", "Remove CONN_MAX_AGE", {"POOL": POOLED, "CONN_MAX_AGE": 600}),
    Broken("dbpool.E002", "CONN_MAX_AGE = None.", "'enabled': False", {"CONN_MAX_AGE": None}),
    Broken("dbpool.E013", "must be a dictionary, not str", '{"sslmode": "require"}', {"OPTIONS": "sslmode=require"}),
    Broken("dbpool.E013", "must be a dictionary, not NoneType", '{"sslmode"', {"OPTIONS": None}),
    Broken("dbpool.E013", "must be a dictionary, not list", '{"sslmode"', {"OPTIONS": ["pool"]}),
    options("dbpool.E005", "connection_limit is no connection option", "from_url_options()", connection_limit=20),
    options("dbpool.E005", "pool_timeout is no connection option", '"timeout": 10', pool_timeout=20),
    options("dbpool.E005", "pgbouncer is no connection option", '"pooler": "transaction"', pgbouncer=True),
    options("dbpool.E005", "max_size is no connection option", "It is a key of POOL", max_size=20),
    options("dbpool.E005", "statement_timeout is no connection", "It is a key of POOL", statement_timeout=5),
    options("dbpool.E005", "ssl_mode is no connection option", "Did you mean 'sslmode'?", ssl_mode="require"),
    options("dbpool.E005", "schema is no connection option", "search_path", schema="app"),
    options("dbpool.E005", "xyzzy is no connection option", "libpq-connect.html", xyzzy=1),
    Broken("dbpool.E005", "7 is no connection option", "libpq-connect.html", {"OPTIONS": {7: 1}}),
    options("dbpool.E006", "isolation_level = 99 is no", "psycopg.IsolationLevel", isolation_level=99),
    options("dbpool.E006", "isolation_level = 'serializable'", "IsolationLevel", isolation_level="serializable"),
    options("dbpool.E006", "server_side_binding = 'true'", "True or False", server_side_binding="true"),
    options("dbpool.E006", "prepare_threshold = '5'", "integer of at least 0", prepare_threshold="5"),
    options("dbpool.E006", "connect_timeout = 'soon'", "number above 0", connect_timeout="soon"),
    options("dbpool.E006", "connect_timeout = 0", "number above 0", connect_timeout=0),
    options("dbpool.E006", "assume_role = 7", "Write a string", assume_role=7),
    # E008 to E012: settings that contradict each other
    pool("dbpool.E008", "session sets timezone", "use TIME_ZONE", session={"TimeZone": "UTC"}),
    pool("dbpool.E008", "session sets role", 'OPTIONS["assume_role"]', session={"role": "app"}),
    pool("dbpool.E008", "session sets client_encoding", "UTF-8", session={"client_encoding": "LATIN1"}),
    pool("dbpool.E008", "session sets transaction_isolation", "isolation", session={"transaction_isolation": "x"}),
    pool("dbpool.E009", "in session", "Keep one", statement_timeout=5, session={"statement_timeout": "6s"}),
    pool(
        "dbpool.E009",
        'lock_timeout in OPTIONS["options"]',
        "Keep one",
        {"OPTIONS": {"options": "-c work_mem=5MB -clock_timeout=3s"}},
        lock_timeout=5,
    ),
    pool(
        "dbpool.E009",
        "idle_in_transaction_session_timeout in session",
        "Keep one",
        idle_in_transaction_timeout=5,
        session={"idle_in_transaction_session_timeout": 3},
    ),
    pool(
        "dbpool.E009",
        'search_path is set in session and in OPTIONS["options"]',
        "Keep one",
        {"OPTIONS": {"options": "--search-path=app"}},
        session={"search_path": "app"},
    ),
    pool(
        "dbpool.E009",
        "prepare is set, and prepare_threshold",
        'Remove OPTIONS["prepare_threshold"]',
        {"OPTIONS": {"server_side_binding": True, "prepare_threshold": 5}},
        prepare={"after": 2},
    ),
    pool("dbpool.E010", "parameters are bound by the client", "server_side_binding", prepare={"after": 2}),
    pool(
        "dbpool.E010",
        "such statements are never prepared",
        "server_side_binding",
        {"OPTIONS": {"server_side_binding": False}},
        prepare={"after": 2},
    ),
    pool(
        "dbpool.E011",
        'prepare is set with pooler = "transaction"',
        "Remove prepare",
        SHARED | BOUND,
        prepare={"after": 2},
        pooler="transaction",
    ),
    pool(
        "dbpool.E011",
        'OPTIONS["prepare_threshold"] is set with pooler',
        'Remove OPTIONS["prepare_threshold"]',
        SHARED | {"OPTIONS": {"prepare_threshold": 5, "server_side_binding": True}},
        pooler="transaction",
    ),
    pool("dbpool.E012", "session is set with pooler", "ALTER ROLE", SHARED, session={"a.b": 1}, pooler="transaction"),
    pool("dbpool.E012", "lock_timeout is set with", "ALTER ROLE", SHARED, lock_timeout=1, pooler="transaction"),
    pool(
        "dbpool.E012",
        'OPTIONS["assume_role"] is set with pooler',
        "connect as that role",
        SHARED | {"OPTIONS": {"assume_role": "app"}},
        pooler="transaction",
    ),
    # E003, E004: DBPOOL
    Broken("dbpool.E003", "DBPOOL: must be a dictionary, not list", '{"RAW_ACCESS": "warn"}', {}, {"DBPOOL": []}),
    Broken("dbpool.E003", "DBPOOL: must be a dictionary, not NoneType", "Write", {}, {"DBPOOL": None}),
    project("dbpool.E003", "unknown key 'RAW_ACESS'", "Did you mean 'RAW_ACCESS'?", RAW_ACESS="warn"),
    project("dbpool.E003", "unknown key 'threads'", "Did you mean 'THREADS'?", threads=4),
    project("dbpool.E003", "RAW_ACCESS = 'forbid' is not a way", '"error" (refused)', RAW_ACCESS="forbid"),
    project("dbpool.E003", "PROCESSES = '4' is not a whole number", "int('4')", PROCESSES="4"),
    project("dbpool.E003", "THREADS = 0 is not a whole number", "at least 1", THREADS=0),
    project("dbpool.E003", "WORKER_TIMEOUT = '30s' is not a number", "Write 30", WORKER_TIMEOUT="30s"),
    project("dbpool.E003", "BUDGET = 1.5 is not a whole number", "at least 1", BUDGET=1.5),
    # E032, E033, W043: alerts
    project("dbpool.E003", "ALERTS = 0.8 is not a dictionary", "None: no alerts", ALERTS=0.8),
    project("dbpool.E032", "unknown key 'utilization'", "Did you mean 'utilisation'?", ALERTS={"utilization": None}),
    project("dbpool.E032", "leak = False is not a dictionary", "or None to switch", ALERTS={"leak": False}),
    project(
        "dbpool.E032",
        "unknown key 'warn'. Did you mean 'warning'?",
        "switch the rule off",
        ALERTS={"pins": {"warn": 1}},
    ),
    project(
        "dbpool.E032", "warning = '75%' is not a threshold", "switch the rule off", ALERTS={"pins": {"warning": "75%"}}
    ),
    project("dbpool.E032", "hold = 0 is not a number of seconds", "switch the rule off", ALERTS={"pins": {"hold": 0}}),
    project("dbpool.E032", "clear = 1.2 is not a ratio", "switch the rule off", ALERTS={"pins": {"clear": 1.2}}),
    project("dbpool.E033", "critical (0.7) is not above", "Raise critical", ALERTS={"utilisation": {"critical": 0.7}}),
    project("dbpool.E033", "neither warning nor critical", '{"leak": None}', ALERTS={"leak": {"warning": None}}),
    project("dbpool.E033", "after (90) is above hold (60)", "lower after", ALERTS={"waiters": {"after": 90}}),
    project("dbpool.W043", "1 or more is never exceeded", "0.8 for 80 %", ALERTS={"utilisation": {"critical": 80}}),
    # E034, E035, W044, W045: bearer tokens
    project("dbpool.E003", "TOKENS = (not shown) is no list", "hexdigest()", TOKENS=DIGEST),
    project("dbpool.E003", "TOKENS = (not shown) is no list", "hexdigest()", TOKENS=None),
    project("dbpool.E034", "TOKENS[0] is not the SHA-256 digest", "make another one", TOKENS=["kYx2-a_plain_token"]),
    project("dbpool.E034", "TOKENS[1] is not the SHA-256 digest", "make another", TOKENS=[DIGEST, DIGEST[:40]]),
    project("dbpool.E034", "TOKENS[0] is not the SHA-256 digest", "make another", TOKENS=["ä" * 64]),
    project("dbpool.E034", "TOKENS[0] is empty", "Leave it out", TOKENS=[""]),
    project("dbpool.E034", "TOKENS[0] has a prefix", "only the 64", TOKENS=[f"sha256:{DIGEST}"]),
    project("dbpool.E034", "TOKENS[0] is bytes", "hexdigest()", TOKENS=[bytes.fromhex(DIGEST)]),
    project("dbpool.E034", "TOKENS[0] is no string but int", "docs/api.md", TOKENS=[7]),
    project("dbpool.E034", "TOKENS[0] is no string but list", "docs/api.md", TOKENS=[[DIGEST]]),
    project("dbpool.E035", "TOKENS[0] is the digest of a token", "token_urlsafe", TOKENS=[sha256(b"").hexdigest()]),
    project("dbpool.E035", "can guess", "token_urlsafe", TOKENS=[sha256(b"changeme").hexdigest()]),
    project("dbpool.W044", "TOKENS[1] is the same as TOKENS[0]", "Remove one", TOKENS=[DIGEST, DIGEST.upper()]),
    Broken("dbpool.W045", "nobody can read the status page", "Make a token", {}, {"ROOT_URLCONF": SITE, "DBPOOL": {}}),
    project("dbpool.E003", "ROLE = 'celery' is not a role", '"worker" (runs tasks)', ROLE="celery"),
    project("dbpool.E003", "SOCKET = 'run/shop' is neither", "absolute path", SOCKET="run/shop"),
    project("dbpool.E003", "SOCKET = 7 is neither", "True, False, or", SOCKET=7),
    project("dbpool.E003", "SECRET = (not shown) is no secret", "at least 16 characters", SECRET="hunter2"),
    project("dbpool.E003", "LOG_INTERVAL = '60s' is not a number", "Write 60", LOG_INTERVAL="60s"),
    project("dbpool.E003", "LOG_INTERVAL = 0 is not a number", "above 0", LOG_INTERVAL=0),
    project("dbpool.E003", "LOG_FORMAT = 'JSON' is not a format", '"json" (one object', LOG_FORMAT="JSON"),
    project("dbpool.E003", "SESSION_FROM_REQUEST = 'f' is neither", "myproject.tenants", SESSION_FROM_REQUEST="f"),
    project("dbpool.E003", "SLOW_STATEMENT = 0 is not a number", "None reports no statement", SLOW_STATEMENT=0),
    project("dbpool.E003", "SLOW_STATEMENT = '3s' is not a number", "Write 3:", SLOW_STATEMENT="3s"),
    project("dbpool.E003", "REPEATED_STATEMENTS = 1 is not", "None reports no statement", REPEATED_STATEMENTS=1),
    project("dbpool.E003", "LEAK_STACKS = 'yes' is not a boolean", "True or False", LEAK_STACKS="yes"),
    project("dbpool.E003", "SPAWN_LIMIT = 0 is not a whole number", "at least 1", SPAWN_LIMIT=0),
    project("dbpool.E004", "can't be imported: No module", "dotted path", SESSION_FROM_REQUEST="no.such.function"),
    project("dbpool.E004", "can't be imported", "dotted path", SESSION_FROM_REQUEST=f"{__name__}.missing"),
    project("dbpool.E004", "is not a function", "dotted path", SESSION_FROM_REQUEST=f"{__name__}.NOT_CALLABLE"),
    # E026 to E028, W036 to W038: where processes publish
    project("dbpool.E003", "FLEET = {} is not a dictionary with values", "nothing is published", FLEET={}),
    project("dbpool.E003", "FLEET = 'database' is not a dictionary", '{"store": "database"', FLEET="database"),
    project("dbpool.E003", "store = 'redis' is not a store", "nothing is published", FLEET={"store": "redis"}),
    project("dbpool.E003", "finite number above 0", "nothing is published", FLEET={"interval": 0}),
    project("dbpool.E003", "seconds, not milliseconds", "nothing is published", FLEET={"expire": 30_000_000}),
    project("dbpool.E003", "using = 7 is not the name", "nothing is published", FLEET={"using": 7}),
    project(
        "dbpool.E003", "unknown key 'alias'. Known keys: cache, expire", "nothing is published", FLEET={"alias": "x"}
    ),
    project("dbpool.E026", "using = 'nowhere' is no database", "Name an alias", FLEET={"using": "nowhere"}),
    project("dbpool.E027", "cache = 'nowhere' is not in", "Name an", FLEET={"store": "cache", "cache": "nowhere"}),
    project("dbpool.E028", "cache 'default' is a LocMemCache", '"store": "database"', FLEET={"store": "cache"}),
    project("dbpool.W036", "less than two intervals (20 s)", "Raise expire to 120", FLEET={"interval": 20}),
    project(
        "dbpool.W037",
        "database 'x' has reserve_size = 0",
        "at 1",
        {"POOL": {"reserve_size": 0}},
        BUDGET=99,
        FLEET={"interval": 5},
    ),
    # E036, W046: what makes a process not ready
    project("dbpool.E003", "READINESS = True is not a dictionary", "leave it out", READINESS=True),
    project("dbpool.E003", "aliases = 'default' is no list", '["default"]', READINESS={"aliases": "default"}),
    project("dbpool.E003", "longest_wait = 0 is not a number", "leave it out", READINESS={"longest_wait": 0}),
    project("dbpool.E003", "unknown key 'ALIASES'. Did you mean", "leave it out", READINESS={"ALIASES": ["x"]}),
    project("dbpool.E036", "aliases names 'nowhere'", "Name aliases", READINESS={"aliases": ["x", "nowhere"]}),
    project("dbpool.W046", "longest_wait (10 s) is not below", "Lower it", READINESS={"longest_wait": 10}),
    project("dbpool.W038", 'cache is given, and store is "database"', "Remove cache", FLEET={"cache": "default"}),
    pool("dbpool.E001", "queue_target = 0 is not a number", "above 0", queue_target=0),
    pool("dbpool.E001", "queue_interval = None is not a number", "above 0", queue_interval=None),
    pool("dbpool.E001", "reserve_size = -1 is not a whole number", "at least 0", reserve_size=-1),
    pool("dbpool.E001", "groups = {} is not a dictionary", '{"limits": {"reports/*": 2}}', groups={}),
    pool("dbpool.E001", "limits nobody", '{"limits": {"reports/*": 2}}', groups={"by": "unit"}),
    pool(
        "dbpool.E001", "has a limit for 'a' that is no count: 0. Write an integer", "Write", groups={"limits": {"a": 0}}
    ),
    pool("dbpool.E001", "unknown key 'limit'. Did you mean 'limits'?", "Write", groups={"limit": {"a": 1}}),
    pool("dbpool.E001", "by = 'route' is neither a function", "Write", groups={"default": 1, "by": "route"}),
    pool("dbpool.E015", "can't be imported: No module", "dotted path", groups={"default": 1, "by": "no.such.function"}),
    pool("dbpool.E015", "is not a function", "dotted path", groups={"default": 1, "by": f"{__name__}.NOT_CALLABLE"}),
    pool("dbpool.E015", "is not a function", "dotted path", groups={"default": 1, "by": Exception}),
    pool("dbpool.E015", "is a coroutine function", "dotted path", groups={"default": 1, "by": asynchronous}),
    pool("dbpool.E015", "exactly one argument", "dotted path", groups={"default": 1, "by": lambda: "a"}),
    pool("dbpool.E001", "queue_target = 0 is not", "None lets everybody wait", queue_target=0),
    pool("dbpool.E001", "max_waiting = None is not", "0 sets no limit", max_waiting=None),
    pool("dbpool.E001", "groups = False is not", "None: no limits", groups=False),
    # W: works, though not as written
    Broken("dbpool.W001", "has both OPTIONS", "Keep only POOL", {"POOL": POOLED, "OPTIONS": {"pool": POOLED}}),
    Broken("dbpool.W001", "switches the pool off", "Remove OPTIONS", {"POOL": POOLED, "OPTIONS": {"pool": False}}),
    Broken(
        "dbpool.W002",
        "POOL has no effect with ENGINE = 'django.db.backends.sqlite3'",
        "remove POOL",
        {"ENGINE": "django.db.backends.sqlite3", "POOL": POOLED},
    ),
    Broken("dbpool.W004", f"{FIRST} is missing", "Put it first", {}, {"MIDDLEWARE": ["a.B"], "DBPOOL": {"BUDGET": 99}}),
    Broken("dbpool.W005", f"{FIRST} is not the first", "to the top", {}, {"MIDDLEWARE": ["a.B", FIRST], "DBPOOL": {}}),
    project("dbpool.W006", "timeout (10 s) is not below", "Lower timeout", WORKER_TIMEOUT=10),
    project(
        "dbpool.W006",
        "command_timeout (60 s) is not below",
        "Lower command_timeout",
        {"POOL": {"command_timeout": 60}},
        WORKER_TIMEOUT=30,
    ),
    pool("dbpool.W007", "connect_timeout (5 s) is above timeout (2 s)", "Lower", timeout=2, connect_timeout=5),
    pool("dbpool.W007", "connect_timeout (30 s) is above", "Lower", {"OPTIONS": {"connect_timeout": "30"}}, timeout=2),
    project("dbpool.W008", 'is below DBPOOL["THREADS"] (16)', "to 16", {"POOL": {"mode": "session"}}, THREADS=16),
    project("dbpool.W009", "max_size (4) is small", "Raise it to 10", {"POOL": {"max_size": 4}}),
    project("dbpool.W009", "max_size (4) is small", "Raise it", {"POOL": {"max_size": 4}}, THREADS=5, ROLE="web"),
    project("dbpool.W010", "BUDGET = 30, but the pools may take 44", "raise BUDGET", PROCESSES=4, BUDGET=30),
    project("dbpool.W010", "1 process x 11 (max_size + reserve_size: 10 + 1 of", "Lower max_size", BUDGET=10),
    pool("dbpool.W011", "lock_timeout (5 s) never takes effect", "below", lock_timeout=5, statement_timeout=5),
    pool("dbpool.W011", "the limit of 'a' (10) never takes effect", "Lower it below", groups={"limits": {"a": 10}}),
    pool("dbpool.W011", "the limit of 'default' (12) never takes effect", "remove it", groups={"default": 12}),
    pool("dbpool.W011", "queue_target (10 s) never takes effect: timeout (10 s)", "Lower", queue_target=10),
    pool("dbpool.W011", "idle_in", "below", idle_in_transaction_timeout=9, transaction_timeout=8),
    pool("dbpool.W011", "statement_timeout (9 s) never", "below", statement_timeout=9, command_timeout=8),
    pool("dbpool.W011", "statement_timeout (9 s) never", "below", statement_timeout=9, transaction_timeout=8),
    options("dbpool.W012", "keepalives = 0", "Remove keepalives", keepalives=0),
    options("dbpool.W012", "keepalives = 0", "Remove keepalives", keepalives="0"),
    pool("dbpool.W013", "connect_timeout (3)", "Remove", {"OPTIONS": {"connect_timeout": 4}}, connect_timeout=3),
    pool("dbpool.W013", "(5) is given", "milliseconds", {"OPTIONS": {"tcp_user_timeout": 5}}, tcp_user_timeout=5),
    pool("dbpool.W014", "timeout = 10000 is 2.8 hours", "write 10.", timeout=10_000),
    pool("dbpool.W014", "statement_timeout = 30000 is", "write 30.", statement_timeout=30_000),
    pool("dbpool.W014", "max_lifetime = 3.6e+06 is", "write 3600.", max_lifetime=3_600_000),
    pool("dbpool.W014", "queue_interval = 1000 is 0.3 hours", "write 1.", queue_interval=1000),
    pool("dbpool.W024", "warm = True with min_size = 0", "Raise min_size", warm=True, min_size=0),
    pool("dbpool.W015", "without DISABLE_SERVER_SIDE_CURSORS", "= True", pooler="transaction"),
    pool("dbpool.W016", 'reset = "always" with', "Remove reset", SHARED, pooler="transaction", reset="always"),
    pool("dbpool.W018", "keeps lock_timeout, session", "own options", {"OPTIONS": {"service": "x"}}, **LIMITED),
    Broken(
        "dbpool.W019",
        "but SessionVariablesMiddleware is not in MIDDLEWARE",
        "Add 'django_dbpool.middleware.SessionVariablesMiddleware'",
        {},
        {"MIDDLEWARE": [FIRST], "DBPOOL": {"SESSION_FROM_REQUEST": not_a_function}},
    ),
    Broken(
        "dbpool.E014",
        'SessionVariablesMiddleware needs DBPOOL["SESSION_FROM_REQUEST"]',
        "remove the middleware",
        {},
        {"MIDDLEWARE": [FIRST, "django_dbpool.middleware.SessionVariablesMiddleware"]},
    ),
    project("dbpool.W039", "is too long a path", "short path", SOCKET=f"/{'x' * 99}", BUDGET=99),
    project(
        "dbpool.W039", "SOCKET = '/dev/null': '/dev/null' is no directory", "a directory", SOCKET="/dev/null", BUDGET=99
    ),
    project(
        "dbpool.W033",
        "SLOW_STATEMENT (20 s) is not below statement_timeout (10 s)",
        "Lower SLOW_STATEMENT",
        {"POOL": {"statement_timeout": 10}},
        SLOW_STATEMENT=20,
    ),
    project(
        "dbpool.W033",
        "SLOW_STATEMENT (3 s) is not below command_timeout (3 s)",
        "None",
        {"POOL": {"command_timeout": 3}},
        SLOW_STATEMENT=3.0,
    ),
    Broken("dbpool.W017", "POOL_OPTIONS is no setting", "Write POOL", {"POOL_OPTIONS": {"POOL_SIZE": 10}}),
    Broken("dbpool.W017", "pool is no setting", "Write POOL", {"pool": {"max_size": 10}}),
]


def numbered(rows: list[Broken]) -> list[Any]:
    return [pytest.param(row, id=f"{number} {row.check} {row.text}") for number, row in enumerate(rows, 1)]


Check = Callable[..., list[CheckMessage]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """What the static checks say of a project whose only database is x."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)

    def run(database: dict[str, Any], **others: Any) -> list[CheckMessage]:
        entry = {"ENGINE": OURS, "NAME": "x", **copy.deepcopy(database)}
        conf.adopt_django_option(entry, "default")  # as apps.ready() does
        monkeypatch.setattr(settings, "DATABASES", {"x": entry})
        with override_settings(**({"DBPOOL": {"BUDGET": 1000}} | others)):
            return run_checks(tags=["dbpool"])

    return run


def at_run_time(database: dict[str, Any]) -> str | None:
    """What the engine refuses with when it makes the pool, or None if it makes it."""
    entry = {"NAME": "x", "OPTIONS": {}, **copy.deepcopy(database)}
    conf.adopt_django_option(entry, "default")
    try:
        if fault := conf.max_age_fault("x", entry.get("CONN_MAX_AGE", 0)):
            return f"{fault.text('')} {fault.hint}"
        conf.pool_config(entry, "x")
    except ImproperlyConfigured as error:
        return str(error)
    return None


def project_at_run_time(given: Any) -> str | None:
    with override_settings(DBPOOL=given):
        try:
            conf.session_from_request()
            conf.fleet_config()
            conf.readiness_config()
        except ImproperlyConfigured as error:
            return str(error)
    return None


def test_the_table_is_long_and_names_each_check_that_settings_can_show() -> None:
    assert len(TABLE) >= 100
    assert len({(row.check, row.text, row.hint) for row in TABLE}) >= 95
    in_table = {row.check for row in TABLE} | {"dbpool.W003", "dbpool.E007"}  # these two below
    assert {int(check[-3:]) for check in in_table if check[7] == "E"} == {
        *range(1, 16),
        *FLEET_ERRORS,
        32,
        33,
        *READINESS_ERRORS,
        *TOKEN_ERRORS,
    }
    assert {int(check[-3:]) for check in in_table if check[7] == "W"} == {
        *range(1, 20),
        24,
        33,
        *FLEET_WARNINGS,
        39,
        43,
        *READINESS_WARNINGS,
        *TOKEN_WARNINGS,
    }


@pytest.mark.parametrize("row", numbered(TABLE))
def test_each_is_named_with_its_check_text_and_hint(row: Broken, check: Check) -> None:
    messages = check(row.database, **row.settings)
    (found,) = [message for message in messages if message.id == row.check and row.text in message.msg]
    assert row.hint in str(found.hint)
    assert found.is_serious() is row.check.startswith("dbpool.E")
    also = {"dbpool.W003"} if row.check == "dbpool.W002" else set()
    assert {message.id for message in messages} <= {row.check} | also, "and nothing that isn't there"


@pytest.mark.parametrize("row", numbered([row for row in TABLE if not row.settings]))
def test_an_error_in_an_alias_is_refused_at_run_time_with_the_same_text(row: Broken, check: Check) -> None:
    errors = [message for message in check(row.database) if message.is_serious()]
    said = "; ".join(f"{message.msg} {message.hint}" for message in errors)
    if row.database.get("ENGINE"):
        return
    assert (at_run_time(row.database) or "") == said
    assert bool(errors) is row.check.startswith("dbpool.E")


@pytest.mark.parametrize("row", numbered([row for row in TABLE if "DBPOOL" in row.settings]))
def test_an_error_in_dbpool_is_refused_at_run_time_with_the_same_text(row: Broken, check: Check) -> None:
    errors = [message for message in check(row.database, **row.settings) if message.is_serious()]
    said = "; ".join(f"{message.msg} {message.hint}" for message in errors)
    assert (project_at_run_time(row.settings["DBPOOL"]) or "") == said


def test_all_faults_of_an_alias_are_told_at_once(check: Check) -> None:
    database = {"POOL": {"prepare": {"after": 2}, "session": {"role": "x"}}, "OPTIONS": {"xyzzy": 1}}
    messages = check(database)
    assert sorted(str(message.id) for message in messages) == ["dbpool.E005", "dbpool.E008", "dbpool.E010"]
    assert all(message.msg in str(at_run_time(database)) for message in messages)


def test_an_app_that_nobody_uses(check: Check) -> None:
    (message,) = check({"ENGINE": "django.db.backends.sqlite3"})
    assert (message.id, "remove the app" in str(message.hint)) == ("dbpool.W003", True)


@pytest.mark.parametrize(
    ("versions", "text"),
    [
        ({}, "psycopg 3.2 or later is needed and isn't installed."),
        ({"psycopg2": "2.9.10"}, "psycopg2 is: it has no pool that could be used."),
        ({"psycopg2-binary": "2.9.10"}, "psycopg2 is: it has no pool that could be used."),
        ({"psycopg": "3.1.20", "psycopg_pool": "3.3.3"}, "psycopg 3.2 or later is needed, 3.1.20 is installed."),
        ({"psycopg": "3.2"}, "psycopg_pool 3.3.3 or later is needed and isn't installed."),
        ({"psycopg": "3.3.9", "psycopg_pool": "3.3.2"}, "psycopg_pool 3.3.3 or later is needed, 3.3.2 is installed."),
    ],
)
def test_packages_that_are_missing_or_old(versions: dict[str, str], text: str) -> None:
    (fault, *_) = faults_of_packages(versions.get)
    assert (fault.id, fault.where) == ("dbpool.E007", "django_dbpool")
    assert text in fault.message
    assert "pip install" in fault.hint


@pytest.mark.parametrize("version", ["3.3.3", "3.3.3.post1", "3.4.0.dev1", "3.10", "4.0"])
def test_packages_that_are_new_enough(version: str) -> None:
    assert faults_of_packages(lambda _: version) == []


# -- what is no mistake ------------------------------------------------------------------------------------

FINE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"DBPOOL": {}}),
    ({"POOL": True}, {"DBPOOL": {}}),
    ({"POOL": False, "CONN_MAX_AGE": 600}, {"DBPOOL": {}}),
    ({"POOL": {"enabled": False, "max_size": 2, "prepare": {"after": 2}}}, {"DBPOOL": {}}),
    ({"OPTIONS": {"pool": True}}, {}),
    ({"OPTIONS": {"pool": {"max_size": 12, "num_workers": 3}}}, {}),
    ({"OPTIONS": {"pool": False}, "POOL": False}, {}),
    ({"OPTIONS": {"sslmode": "require", "application_name": "x", "connect_timeout": "5", "service": "x"}}, {}),
    ({"OPTIONS": {"isolation_level": 4, "assume_role": "x", "prepare_threshold": None, "keepalives": 1}}, {}),
    ({"POOL": {"timeout": 2}}, {}),  # connect_timeout stays at its default of 5
    ({"POOL": {"connect_timeout": 3}, "OPTIONS": {"connect_timeout": "3"}}, {}),
    ({"POOL": {"tcp_user_timeout": 3}, "OPTIONS": {"tcp_user_timeout": 3000}}, {}),
    ({"POOL": {"keepalives_idle": 0, "tcp_user_timeout": 0}, "OPTIONS": {"keepalives": 0}}, {}),
    (
        {
            "POOL": {
                "lock_timeout": 2,
                "statement_timeout": 5,
                "idle_in_transaction_timeout": 9,
                "transaction_timeout": 10,
                "command_timeout": 6,
            }
        },
        {},
    ),
    ({"POOL": {"statement_timeout": 1800, "max_lifetime": 604_800}}, {}),
    ({"POOL": {"statement_timeout": 5}, "OPTIONS": {"options": "-c statement_timeout_x=1 -c work_mem=4MB"}}, {}),
    ({"POOL": {"prepare": {"after": 2}}, **BOUND}, {}),
    ({"POOL": {"prepare": {"after": 2}, "pooler": "session"}, **BOUND}, {}),
    ({"POOL": {"pooler": "transaction", "max_size": 2}, **SHARED}, {"DBPOOL": {}}),
    (
        {"POOL": {"session": {"search_path": ["a"], "statement_timeout": "5s", "default_transaction_read_only": True}}},
        {},
    ),
    ({"POOL": {"max_size": 2}}, {"DBPOOL": {"BUDGET": 20}}),
    ({"POOL": {"max_size": 2}}, {"DBPOOL": {"ROLE": "worker"}}),
    ({"POOL": {"max_size": 2}}, {"DBPOOL": {"THREADS": 2}}),
    ({"POOL": {"max_size": 2}}, {"DBPOOL": {}, "DEBUG": True}),
    ({"POOL": {"max_size": 16, "mode": "session"}}, {"DBPOOL": {"THREADS": 16}}),
    ({"POOL": {"max_size": 10}}, {"DBPOOL": {"THREADS": 64}}),  # transaction mode shares
    ({}, {"DBPOOL": {"PROCESSES": 4, "BUDGET": 44, "WORKER_TIMEOUT": 30}}),
    ({}, {"DBPOOL": {"ROLE": "worker"}, "MIDDLEWARE": ["a.B"]}),
    ({}, {"DBPOOL": {}, "MIDDLEWARE": [FIRST, "a.B"]}),
    ({}, {"DBPOOL": {}, "MIDDLEWARE": []}),
    ({}, {"DBPOOL": {"FLEET": None}}),
    ({}, {"DBPOOL": {"FLEET": {"using": "x", "interval": 1, "expire": 2}}}),
    ({"POOL": {"reserve_size": 0}}, {"DBPOOL": {"FLEET": {"store": None}}}),
    ({}, {"DBPOOL": {"READINESS": {"aliases": ["x"], "longest_wait": 9}}}),
    ({"POOL": {"timeout": 20}}, {"DBPOOL": {"READINESS": {"aliases": [], "longest_wait": 30}}}),
    (
        {},
        {
            "DBPOOL": {"FLEET": {"store": "cache"}},
            "CACHES": {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache"}},
        },
    ),
    ({}, {"DBPOOL": {"SESSION_FROM_REQUEST": f"{__name__}.not_a_function"}}),
    ({}, {"DBPOOL": {"SESSION_FROM_REQUEST": not_a_function, "RAW_ACCESS": "error"}}),
]


@pytest.mark.parametrize(("database", "others"), FINE, ids=range(len(FINE)))
def test_what_is_no_mistake_is_not_reported(database: dict[str, Any], others: dict[str, Any], check: Check) -> None:
    assert check(database, **others) == []


def test_web_concurrency_counts_where_processes_is_not_set(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    for hint, project_, taken in (("4", {}, 44), ("4", {"PROCESSES": 6}, 66), ("4", {"ROLE": "worker"}, None)):
        monkeypatch.undo()
        monkeypatch.setenv("WEB_CONCURRENCY", hint)
        monkeypatch.setattr(settings, "DATABASES", {"x": {"ENGINE": OURS, "NAME": "x"}})
        with override_settings(DBPOOL={"BUDGET": 11, **project_}):
            texts = [message.msg for message in run_checks(tags=["dbpool"])]
        assert [f"may take {taken} connections" in text for text in texts] == ([True] if taken else [])


@pytest.mark.parametrize("hint", ["", "auto", "-1", "0", "4.5", "٤", "9" * 50])
def test_a_web_concurrency_that_says_nothing_counts_as_one_process(hint: str) -> None:
    assert ProjectConfig().process_count({"WEB_CONCURRENCY": hint}) == (1, "")


def test_the_budget_is_of_one_server(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def databases(*hosts: str) -> dict[str, Any]:
        entry = {
            "ENGINE": OURS,
            "NAME": "x",
            "PORT": 5432,
            "OPTIONS": {"sslmode": "verify-full", "sslrootcert": "system"},
        }
        return {f"d{i}": {**entry, "HOST": host} for i, host in enumerate(hosts)}

    for hosts, over in ((["a", "b"], 0), (["a", "a"], 1), (["a", "b", "a", "b"], 2)):
        monkeypatch.setattr(settings, "DATABASES", databases(*hosts))
        with override_settings(DBPOOL={"BUDGET": 15}):
            assert [message.id for message in run_checks(tags=["dbpool"])] == ["dbpool.W010"] * over


# -- whatever is written -----------------------------------------------------------------------------------

unprintable = st.builds(pow, st.just(10), st.just(5000))  # Python refuses to make a text of it
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, 10**400, 2**31, 2**63]),
    unprintable,
    st.floats(),
    st.text(max_size=6),
    st.text(alphabet=string.ascii_lowercase + "_0123456789. =", max_size=8),
    st.binary(max_size=4),
    st.sampled_from(["transaction", "session", "always", "web", "10s", "true", "\ud800", "\0", 1j, object(), print]),
)
keys = st.one_of(
    st.sampled_from([*PoolConfig.__dataclass_fields__, "after", "max", "search_path", "statement_timeout", "role"]),
    st.text(max_size=4),
    st.integers(),
    st.binary(max_size=3),
    st.none(),
    st.tuples(st.integers()),
    st.floats(),
    unprintable,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
option_names = st.sampled_from(
    [
        "pool",
        "options",
        "isolation_level",
        "server_side_binding",
        "prepare_threshold",
        "connect_timeout",
        "keepalives",
        "tcp_user_timeout",
        "assume_role",
        "service",
        "connection_limit",
        "sslmode",
    ]
)
anything_in_options = st.dictionaries(option_names | keys, values, max_size=4) | values
project_keys = st.sampled_from([name.upper() for name in ProjectConfig.__dataclass_fields__])
entries = st.fixed_dictionaries(
    {},
    optional={
        "POOL": st.dictionaries(keys, values, max_size=5) | values,
        "OPTIONS": anything_in_options,
        "CONN_MAX_AGE": values,
        "HOST": values,
        "PORT": values,
        "TIME_ZONE": values,
        "DISABLE_SERVER_SIDE_CURSORS": values,
        "pooling": values,
    },
)
often = hypothesis_settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=600,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@often
@given(entries)
def test_whatever_an_alias_says_is_accepted_or_refused_by_name(database: dict[str, Any]) -> None:
    """The check and the first use agree, and neither raises anything but ImproperlyConfigured."""
    entry = {"ENGINE": OURS, "NAME": "x", **copy.deepcopy(database)}
    conf.adopt_django_option(entry, "default")
    with pytest.MonkeyPatch.context() as patch, override_settings(DBPOOL={"BUDGET": 5, "THREADS": 3}):
        patch.setattr(settings, "DATABASES", {"x": entry})
        messages = run_checks(tags=["dbpool"])
    assert all(message.msg and message.hint and message.id for message in messages)
    # From E020 on it is the server or libpq that refuses, in its own words.
    errors = {
        f"{message.msg} {message.hint}"
        for message in messages
        if message.is_serious() and str(message.id) < "dbpool.E020"
    }
    if not conf.pooling_enabled(entry):
        return  # stock behaviour: nothing of POOL is used
    refused = at_run_time(database)
    assert bool(refused) is bool(errors)
    if refused and "CONN_MAX_AGE" not in refused:
        assert all(text in refused for text in errors if "CONN_MAX_AGE" not in text)


@often
@given(st.dictionaries(project_keys | keys, values, max_size=5) | values)
def test_whatever_dbpool_says_is_accepted_or_refused_by_name(given_: Any) -> None:
    with pytest.MonkeyPatch.context() as patch, override_settings(DBPOOL=given_, MIDDLEWARE=["a.B"]):
        patch.setattr(settings, "DATABASES", {"x": {"ENGINE": OURS, "NAME": "x"}})
        messages = run_checks(tags=["dbpool"])
    errors = "; ".join(f"{message.msg} {message.hint}" for message in messages if message.is_serious())
    assert (project_at_run_time(given_) or "") == errors


def test_the_first_query_refuses_with_the_text_of_the_check(
    check: Check, make_alias: Callable[..., str], django_db_blocker: Any
) -> None:
    """The same on the way that a query takes."""
    alias = make_alias(POOL={"prepare": {"after": 2}}, OPTIONS={"connection_limit": 20})
    (unknown, unbound) = check({"POOL": {"prepare": {"after": 2}}, "OPTIONS": {"connection_limit": 20}})
    with pytest.raises(ImproperlyConfigured) as caught:
        connections[alias].cursor()
    for message in (unknown, unbound):
        assert f"{message.msg} {message.hint}".replace('["x"]', f'["{alias}"]') in str(caught.value)
