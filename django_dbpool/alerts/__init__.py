"""
What is wrong in this process's pools: looked at every few seconds while they are used, told once, and told again when
it is over.

Alerts go to the logger ``django_dbpool.alerts`` and to the signal ``alert_changed``; ``active()`` and ``recent()`` are
for pages and programs. Thresholds are in ``DBPOOL["ALERTS"]``; docs/alerts.md has the rules.
"""

from __future__ import annotations

from ..core.alerts import Alert, Change
from .providers import BatchTrouble, provide
from .service import active, alert_changed, recent

__all__ = ["Alert", "BatchTrouble", "Change", "active", "alert_changed", "provide", "recent"]
