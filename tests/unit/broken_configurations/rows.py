"""Broken configurations, each with the check that names it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

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
