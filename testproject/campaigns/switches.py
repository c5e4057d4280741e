"""
What our engine goes without, to see what it is for.

batches  run the tasks of the incident: one transaction each
outbox   send letters and remove files in the batch's transaction, not once it is committed
"""

from __future__ import annotations

import os

SWITCHES = ("batches", "outbox")
VARIABLE = "DBPOOL_CAMPAIGNS_WITHOUT"


def has(cure: str) -> bool:
    assert cure in SWITCHES, cure
    return cure not in os.environ.get(VARIABLE, "").split(",")
