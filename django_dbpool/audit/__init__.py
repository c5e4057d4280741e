"""
What in a project's sources exhausts or goes around the pool, found without running them.

Standard library only, so that it works where neither settings nor a database do. From the outside in: ``run`` reads
``files`` (``source``), makes each a ``code`` (``scopes``: where names come from; ``infer``: what expressions are, as
``facts``; ``calls``: which functions call which; ``queries`` and ``slow``: what asks the database and what waits for
others) and asks the ``rules``. What can't be told is not reported.
"""

from .finding import UNREADABLE, Finding
from .rules import RULES
from .run import Report, audit, audit_paths

__all__ = ["RULES", "UNREADABLE", "Finding", "Report", "audit", "audit_paths"]
