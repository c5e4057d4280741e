"""A stand-in for a slow service elsewhere: a request waits for it and needs no database meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from decimal import Decimal

SECONDS = float(os.environ.get("DBPOOL_DEMO_WAIT", "0.2"))

_TO_EURO = {"EUR": Decimal(1), "USD": Decimal("0.92"), "GBP": Decimal("1.17"), "SEK": Decimal("0.088")}


def euro_rate(currency: str) -> Decimal:
    time.sleep(SECONDS)
    return _TO_EURO[currency]


async def aeuro_rate(currency: str) -> Decimal:
    await asyncio.sleep(SECONDS)
    return _TO_EURO[currency]
