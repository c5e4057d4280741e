"""``{% load dbpool_admin %}``: how the dashboard writes times."""

from __future__ import annotations

from django import template
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from ..reports import Percentiles

register = template.Library()

_LONGER = (
    (86_400, 3600, "%(first)s d %(second)s h"),
    (3600, 60, "%(first)s h %(second)s min"),
    (60, 1, "%(first)s min %(second)s s"),
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
            return _(text) % {"first": whole // unit, "second": whole % unit // smaller}
    return _("%(number)s s") % {"number": whole}


@register.filter
def at_most(seconds: float | None, times: Percentiles) -> str:
    """
    A percentile, which is the upper bound of a histogram's bucket; above the highest of them nothing is known.

    Example:
        {{ times.p95|at_most:times }} -> "≤ 50 ms", "> 2 min 0 s", "–"
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
