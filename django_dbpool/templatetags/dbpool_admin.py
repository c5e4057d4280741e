"""``{% load dbpool_admin %}``: how the dashboard writes times and words."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from django import template
from django.utils.formats import number_format
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..reports import Percentiles

register = template.Library()

_LONGER = (
    (86_400, 3600, gettext_lazy("%(first)s d %(second)s h")),
    (3600, 60, gettext_lazy("%(first)s h %(second)s min")),
    (60, 1, gettext_lazy("%(first)s min %(second)s s")),
)


@register.filter
def duration(seconds: float | None) -> str:
    """
    A time as people read it: two places are enough to compare, and units change so that no row of zeros is needed.

    Example:
        {{ row.held|duration }} -> "4.2 s", "42 s", "3 min 5 s", "12 ms"
    """
    if seconds is None:
        return "–"
    if seconds < 0.0995:
        return _("%(number)s ms") % {"number": number_format(seconds * 1000, 1 if seconds < 0.00995 else 0)}
    if seconds < 9.95:
        return _("%(number)s s") % {"number": number_format(seconds, 2 if seconds < 0.995 else 1)}
    whole = round(seconds)
    for unit, smaller, text in _LONGER:
        if whole >= unit:
            return text % {"first": whole // unit, "second": whole % unit // smaller}
    return _("%(number)s s") % {"number": whole}


@register.filter
def at_most(seconds: float | None, times: Percentiles) -> str:
    """
    A percentile, which is the upper bound of a histogram's bucket; above the highest of them nothing is known.

    Example:
        {{ times.p95|at_most:times }} -> "≤ 50 ms", "> 10 s", "–"
    """
    if not times.count:
        return "–"
    return f"> {duration(times.highest)}" if seconds is None else f"≤ {duration(seconds)}"


@register.filter
def ago(moment: float | None, now: float) -> str:
    """
    How long ago a unix time was, by another one.

    Example:
        {{ row.at|ago:fleet.at }} -> "3 min 5 s"
    """
    return "–" if moment is None else duration(max(0.0, now - moment))


WORDS = {
    "active": gettext_lazy("active"),
    "idle": gettext_lazy("idle"),
    "stale": gettext_lazy("silent"),
    "ended": gettext_lazy("ended"),
    "running": gettext_lazy("running"),
    "idle in transaction": gettext_lazy("idle in transaction"),
    "idle in transaction (aborted)": gettext_lazy("failed transaction"),
    "failed transaction": gettext_lazy("failed transaction"),
    "lost": gettext_lazy("lost"),
    "done": gettext_lazy("done"),
    "failed": gettext_lazy("failed"),
    "cancelled": gettext_lazy("cancelled"),
    "pausing": gettext_lazy("pausing"),
    "paused": gettext_lazy("paused"),
    "cancelling": gettext_lazy("being cancelled"),
    "waiting": gettext_lazy("not begun yet"),
    "stopped": gettext_lazy("stopped"),
    "dead": gettext_lazy("runner is dead"),
    "given up": gettext_lazy("given up"),
    "closed": gettext_lazy("circuit closed"),
    "half-open": gettext_lazy("circuit half open"),
    "open": gettext_lazy("circuit open"),
    "isolated": gettext_lazy("circuit held open"),
    "request": gettext_lazy("request"),
    "task": gettext_lazy("task"),
    "command": gettext_lazy("command"),
    "operation": gettext_lazy("operation"),
    "thread": gettext_lazy("thread"),
    "critical": gettext_lazy("critical"),
    "warning": gettext_lazy("warning"),
    "error": gettext_lazy("error"),
    "measured": gettext_lazy("measured"),
    "estimated": gettext_lazy("estimated"),
    "prior": gettext_lazy("a rule of thumb"),
}


@register.filter
def word(name: str) -> Any:
    """A name of ours in the reader's language; others as they are."""
    return WORDS.get(name, name)


@register.filter
def digest(text: str | None) -> str:
    """So short that a row can be told by it from others, whatever the length of its text."""
    return blake2b((text or "").encode(errors="replace"), digest_size=6).hexdigest()


@register.filter
def ticks(text: str) -> SafeString:
    """
    Commands, which texts have between back quotes, as code; all else as text.

    Example:
        {{ problem.remedy|ticks }}
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one that nobody closes is none
        parts[-2:] = ["`".join(parts[-2:])]
    tags = (("<code>", "</code>") if number % 2 else ("", "") for number in range(len(parts)))
    return format_html_join(
        "",
        "{}{}{}",
        ((SafeString(before), part, SafeString(after)) for (before, after), part in zip(tags, parts, strict=True)),
    )
