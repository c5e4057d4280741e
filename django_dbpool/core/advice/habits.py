"""Advice about other settings than sizes, and about code."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .facts import Confidence, Facts, Measured
from .item import Advice, Kind

STATEMENT_TIMEOUT = 30.0
"""Seconds, unless the worker is killed earlier."""


def advise_habits(facts: Facts, max_size: int) -> list[Advice]:
    """
    Args:
        max_size: what is advised.
    """
    found = [*_timeout(facts), *_statement_timeout(facts)]
    if facts.measured is not None:
        found += [*_max_waiting(facts, facts.measured, max_size), *_code(facts, facts.measured)]
    return found


def _timeout(facts: Facts) -> Iterator[Advice]:
    limit, timeout = facts.worker_timeout, facts.settings.timeout
    if limit is not None and timeout >= limit:
        yield _advice(
            facts,
            "timeout",
            timeout,
            _round(limit / 2),
            f"The worker is killed after {limit:g} s, before a caller that waits for {timeout:g} s gets its error; "
            "half of that leaves time to answer.",
            "prior",
        )


def _statement_timeout(facts: Facts) -> Iterator[Advice]:
    settings = facts.settings
    if not facts.web or settings.pooler == "transaction":
        return  # behind such a pooler the limit would stay on connections of others
    if settings.statement_timeout is None and settings.command_timeout is None:
        limit = STATEMENT_TIMEOUT
        if facts.worker_timeout is not None:
            limit = min(limit, _round(facts.worker_timeout * 0.8))
        yield _advice(
            facts,
            "statement_timeout",
            None,
            limit,
            "These settings end no statement: one that hangs keeps its connection until somebody notices. Management "
            "commands and migrations are exempt. Workers that share the settings are not: if their tasks have longer "
            "statements, set it for the web processes only.",
            "prior",
        )


def _max_waiting(facts: Facts, measured: Measured, max_size: int) -> Iterator[Advice]:
    settings = facts.settings
    if not measured.timeouts or settings.max_waiting or measured.hold <= 0:
        return
    served = math.ceil(max_size * settings.timeout / measured.hold)
    if facts.threads is not None and served >= facts.threads:
        return
    if served <= 1000:
        yield _advice(
            facts,
            "max_waiting",
            0,
            served,
            f"{measured.timeouts} callers waited to the end in vain. Within {settings.timeout:g} s {max_size} "
            f"connections serve about {served}; whoever stands behind them is better refused at once.",
            measured.confidence,
        )


def _code(facts: Facts, measured: Measured) -> Iterator[Advice]:
    settings = facts.settings
    if measured.overdue:
        yield _look(
            facts,
            f"{measured.overdue} leases lasted longer than leak_after ({settings.leak_after:g} s). The log of "
            "django_dbpool.pool names them: end the transaction earlier, close the cursor, or work in batches. Raise "
            "leak_after only if they are meant to last.",
        )
    if measured.pinned:
        yield _look(
            facts,
            f"{measured.pinned} connections were pinned for longer than pin_max ({settings.pin_max:g} s). Declare the "
            "variables that are set (POOL['session'], transaction.session()), or use POOL['mode'] = 'session' if most "
            "of the work needs its own session.",
        )
    if measured.repeated:
        yield _look(
            facts,
            f"In {measured.repeated} cases one unit of work ran the same statement again and again: a query per row. "
            "The log of django_dbpool.statements says where; select_related() and prefetch_related() ask once.",
        )
    if measured.executing is not None and measured.executing < 0.3 and measured.load >= 1 and measured.hold >= 0.1:
        yield _look(
            facts,
            f"Of the time in use only {measured.executing:.0%} runs a statement: transactions wait for something else. "
            "Move calls to other services and slow computations out of atomic(); `manage.py dbpool audit` finds them.",
        )


def _advice(
    facts: Facts, setting: str, current: object, proposed: object, reason: str, confidence: Confidence
) -> Advice:
    return Advice(facts.alias, setting, "change", current, proposed, reason, confidence)


def _look(facts: Facts, reason: str) -> Advice:
    assert facts.measured is not None
    kind: Kind = "look"
    return Advice(facts.alias, "code", kind, None, None, reason, facts.measured.confidence)


def _round(seconds: float) -> float:
    """Whole seconds where there are some."""
    return float(math.floor(seconds)) if seconds >= 1 else seconds
