"""
Settings of one alias that contradict each other. Rules yield faults: E are refused by the check and at run time,
with one text; W are only reported, because the project works, though not as written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..core.config import SERVER_LIMITS
from ..core.readers import Fault, shown
from .alias import Alias, startup_variables
from .groups import NEVER_FIRES, limits_of_groups_can_be_reached, the_function_of_groups_exists
from .options import is_timeout, unknown_options, unusable_options

OWNED_VARIABLE = "dbpool.E008"
GIVEN_TWICE = "dbpool.E009"
PREPARE_UNBOUND = "dbpool.E010"
PREPARE_POOLED = "dbpool.E011"
SHARED_STATE = "dbpool.E012"
NO_OPTIONS = "dbpool.E013"

SLOW_CONNECT = "dbpool.W007"
NO_KEEPALIVES = "dbpool.W012"
OVERRIDDEN = "dbpool.W013"
MILLISECONDS = "dbpool.W014"
SERVER_CURSORS = "dbpool.W015"
VAIN_RESET = "dbpool.W016"
LATE_SETTINGS = "dbpool.W018"
NOTHING_TO_WARM = "dbpool.W024"

_OWNED = {
    "timezone": "TIME_ZONE of the alias, or TIME_ZONE of the project",
    "role": 'OPTIONS["assume_role"]',
    "session_authorization": "USER",
    "client_encoding": "nothing: Django works in UTF-8",
    "transaction_isolation": 'OPTIONS["isolation_level"]',
    "transaction_read_only": 'the variable "default_transaction_read_only"',
    "transaction_deferrable": 'the variable "default_transaction_deferrable"',
}


def options_are_a_dictionary(alias: Alias) -> Iterator[Fault]:
    if not isinstance(alias.database.get("OPTIONS", {}), Mapping):
        kind = type(alias.database["OPTIONS"]).__name__
        yield alias.fault(NO_OPTIONS, "", f"must be a dictionary, not {kind}.", 'Write {"sslmode": "require"}.')


def session_leaves_out_what_has_its_own_setting(alias: Alias) -> Iterator[Fault]:
    for name in alias.config.session:
        if name in _OWNED:
            yield Fault(
                "session",
                f"session sets {name}, which another setting is responsible for.",
                f"Remove it and use {_OWNED[name]}.",
                OWNED_VARIABLE,
            )


def nothing_is_given_twice(alias: Alias) -> Iterator[Fault]:
    in_options = set(startup_variables(alias.options.get("options")))
    for key in alias.server_limits:
        variable = SERVER_LIMITS[key]
        if variable in alias.config.session:
            yield Fault(
                key, f"{key} is set, and {variable} in session.", "Keep one of them: best the key.", GIVEN_TWICE
            )
        if variable in in_options:
            yield Fault(key, f'{key} is set, and {variable} in OPTIONS["options"].', "Keep one of them.", GIVEN_TWICE)
    for name in alias.config.session:
        if name in in_options:
            yield Fault(
                "session", f'{name} is set in session and in OPTIONS["options"].', "Keep one of them.", GIVEN_TWICE
            )
    if alias.config.prepare is not None and "prepare_threshold" in alias.options:
        yield Fault(
            "prepare",
            'prepare is set, and prepare_threshold in OPTIONS, which is its "after".',
            'Remove OPTIONS["prepare_threshold"].',
            GIVEN_TWICE,
        )


def prepared_statements_can_work(alias: Alias) -> Iterator[Fault]:
    prepare = alias.config.prepare is not None
    if prepare and alias.options.get("server_side_binding") is not True:
        yield Fault(
            "prepare",
            "prepare is set, but parameters are bound by the client, and such statements are never prepared.",
            'Set OPTIONS["server_side_binding"] = True, or remove prepare.',
            PREPARE_UNBOUND,
        )
    if alias.config.pooler == "transaction":
        name = "prepare" if prepare else 'OPTIONS["prepare_threshold"]'
        if prepare or alias.options.get("prepare_threshold") is not None:
            yield Fault(
                "prepare",
                f'{name} is set with pooler = "transaction", where the next transaction may meet a server connection '
                "that doesn't have the statement.",
                f'Remove {name}, or use a pooler in session mode: pooler = "session".',
                PREPARE_POOLED,
            )


def no_state_is_left_in_shared_sessions(alias: Alias) -> Iterator[Fault]:
    if alias.config.pooler != "transaction":
        return
    names = [*alias.server_limits, *(["session"] if alias.config.session else [])]
    names += ['OPTIONS["assume_role"]'] if alias.options.get("assume_role") else []
    for name in names:
        yield Fault(
            name,
            f'{name} is set with pooler = "transaction": the setting would stay on a server connection that other '
            "clients' transactions use next.",
            "Set it for the role or the database, with ALTER ROLE ... SET or ALTER DATABASE ... SET"
            + (", or connect as that role." if "assume_role" in name else ", or use a pooler in session mode."),
            SHARED_STATE,
        )


def connecting_fits_into_the_wait(alias: Alias) -> Iterator[Fault]:
    """Of what was written: the default of connect_timeout is cut short without anybody being misled."""
    config = alias.config
    seconds = alias.options.get("connect_timeout", config.connect_timeout if "connect_timeout" in alias.given else 0)
    if is_timeout(seconds) and float(seconds) > config.timeout:
        yield Fault(
            "connect_timeout",
            f"connect_timeout ({float(seconds):g} s) is above timeout ({config.timeout:g} s), at which the caller "
            "gives up and the attempt with it.",
            "Lower connect_timeout or raise timeout.",
            SLOW_CONNECT,
        )


def every_limit_can_be_reached(alias: Alias) -> Iterator[Fault]:
    config = alias.config
    limits = {**alias.server_limits, "command_timeout": config.command_timeout, "timeout": config.timeout}
    if "queue_target" in alias.given:  # its default is meant for other timeouts, which nobody need know
        limits["queue_target"] = config.queue_target
    for longer, shorter in (
        ("lock_timeout", "statement_timeout"),
        ("statement_timeout", "transaction_timeout"),
        ("lock_timeout", "transaction_timeout"),
        ("idle_in_transaction_timeout", "transaction_timeout"),
        ("statement_timeout", "command_timeout"),
        ("lock_timeout", "command_timeout"),
        ("queue_target", "timeout"),
    ):
        first, last = limits.get(shorter), limits.get(longer)
        if first is not None and last is not None and last >= first:
            yield Fault(
                longer,
                f"{longer} ({last:g} s) never takes effect: {shorter} ({first:g} s) is reached before it.",
                f"Lower {longer} below {shorter}, or remove it.",
                NEVER_FIRES,
            )


def keepalives_are_not_off(alias: Alias) -> Iterator[Fault]:
    config = alias.config
    off = shown(alias.options.get("keepalives", 1), str).strip() == "0"
    if off and (config.keepalives_idle or config.tcp_user_timeout):
        yield alias.fault(
            NO_KEEPALIVES,
            "keepalives",
            "keepalives = 0: keepalives_idle has no effect, and tcp_user_timeout none while an answer is awaited; a "
            "server that has vanished is noticed after hours.",
            "Remove keepalives, or set keepalives_idle and tcp_user_timeout to 0 if that is what you want.",
        )


def options_do_not_override_the_pool(alias: Alias) -> Iterator[Fault]:
    for key, unit in (("connect_timeout", 1), ("keepalives_idle", 1), ("tcp_user_timeout", 1000)):
        if key not in alias.given or key not in alias.options:
            continue
        ours = getattr(alias.config, key)
        if not _same(alias.options[key], ours * unit):
            yield Fault(
                key,
                f"{key} ({ours:g}) is given in OPTIONS too, and that one is used.",
                f'Remove OPTIONS["{key}"]' + (", which counts milliseconds." if unit > 1 else "."),
                OVERRIDDEN,
            )


_LONG = {
    "timeout": 1e3,
    "queue_interval": 1e3,
    "connect_timeout": 1e3,
    "tcp_user_timeout": 1e3,
    "lock_timeout": 1e3,
    "command_timeout": 1e4,
    "statement_timeout": 1e4,
    "idle_in_transaction_timeout": 1e4,
    "transaction_timeout": 1e5,
    "keepalives_idle": 1e4,
    "check_idle": 1e4,
    "pin_max": 1e5,
    "leak_after": 1e5,
    "max_idle": 1e5,
    "max_lifetime": 1e6,
}
"""Seconds from which on a time is longer than anybody means, and about right in milliseconds."""


def times_are_seconds(alias: Alias) -> Iterator[Fault]:
    for key, long in _LONG.items():
        value = getattr(alias.config, key)
        if value is not None and value >= long:
            yield Fault(
                key,
                f"{key} = {value:g} is {value / 3600:.1f} hours; it counts seconds.",
                f"If milliseconds were meant, write {value / 1000:g}.",
                MILLISECONDS,
            )


def cursors_end_with_their_transaction(alias: Alias) -> Iterator[Fault]:
    if alias.config.pooler == "transaction" and not alias.database.get("DISABLE_SERVER_SIDE_CURSORS"):
        yield Fault(
            "pooler",
            'pooler = "transaction" without DISABLE_SERVER_SIDE_CURSORS: iterator() outside a transaction opens a '
            "cursor that its next statement may not find.",
            f'Set DATABASES["{alias.name}"]["DISABLE_SERVER_SIDE_CURSORS"] = True.',
            SERVER_CURSORS,
        )


def reset_reaches_its_session(alias: Alias) -> Iterator[Fault]:
    if alias.config.pooler == "transaction" and alias.config.reset == "always":
        yield Fault(
            "reset",
            'reset = "always" with pooler = "transaction" resets whichever server connection is free, not the one '
            "that was used.",
            "Remove reset; PgBouncer's own is server_reset_query.",
            VAIN_RESET,
        )


def there_is_something_to_warm(alias: Alias) -> Iterator[Fault]:
    """Of what was written: under manage.py min_size is 0 by default, and nobody warms a command."""
    config = alias.config
    if config.warm and config.min_size == 0 and "min_size" in alias.given:
        yield Fault(
            "warm",
            "warm = True with min_size = 0: there is no connection that should be open before the first request.",
            "Raise min_size, or remove warm.",
            NOTHING_TO_WARM,
        )


def a_service_leaves_room_for_settings(alias: Alias) -> Iterator[Fault]:
    """With a service the start-up packet is left alone: its options would replace those of the service file."""
    late = [*alias.server_limits, *(["session"] if alias.config.session else [])]
    if alias.options.get("service") and late:
        yield alias.fault(
            LATE_SETTINGS,
            "service",
            f"service keeps {', '.join(late)} out of the start-up packet; they are set by a statement, and RESET ALL "
            "undoes them until the connection is replaced.",
            "Write them into the service's own options, or name the server by HOST and NAME.",
        )


def _same(option: Any, ours: float) -> bool:
    try:
        return float(option) == ours
    except (TypeError, ValueError, OverflowError):
        return False


Rule = Callable[[Alias], Iterator[Fault]]

RULES: tuple[Rule, ...] = (
    options_are_a_dictionary,
    unknown_options,
    unusable_options,
    session_leaves_out_what_has_its_own_setting,
    nothing_is_given_twice,
    prepared_statements_can_work,
    no_state_is_left_in_shared_sessions,
    connecting_fits_into_the_wait,
    every_limit_can_be_reached,
    keepalives_are_not_off,
    options_do_not_override_the_pool,
    times_are_seconds,
    cursors_end_with_their_transaction,
    reset_reaches_its_session,
    a_service_leaves_room_for_settings,
    there_is_something_to_warm,
    the_function_of_groups_exists,
    limits_of_groups_can_be_reached,
)


def faults_of_alias(alias: Alias) -> list[Fault]:
    """Every fault that the settings of one pooled alias have together."""
    return [fault for rule in RULES for fault in rule(alias)]
