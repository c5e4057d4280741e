"""How fast a campaign may be sent. Seconds here stand for minutes in production."""

from __future__ import annotations

import os

SIZE = 5
"""Letters at a time."""
PAUSE = float(os.environ.get("DBPOOL_CAMPAIGNS_PAUSE", "1.5"))
"""Seconds between."""
TAKEOVER_AFTER = 5.0
"""Seconds after the last sign of life of a runner until another may go on."""
