"""
What people see, as plain objects: dashboard, endpoints and commands show the same because they show these.

``read()`` gives what is known of all processes; everything else is a view of it, without further questions.
"""

from __future__ import annotations

from .alert_rows import AlertRow, alerts
from .batch_rows import STATES as BATCH_STATES
from .batch_rows import BatchPage, batch, batch_failures, batches
from .batch_shown import BatchFailureRow, BatchPartRow, BatchRow, batch_of, key_of_batch
from .changes import CircuitStep
from .culprits import Culprit, culprits
from .holder_rows import HolderRow, StrangerRow, holders, holders_left_out, key_of, strangers, target_of
from .measuring import Percentiles, Series
from .operation_rows import OperationRow, operations
from .page import Page
from .process_rows import PoolRow, ProcessRow, processes
from .reading import Fleet, own, read, remembered
from .sizes import AdviceReport, advice
from .state import Database, Overview, databases, overview
from .statement_rows import RepeatedStatementRow, SlowStatementRow, repeated_statements, slow_statements
from .trouble import Problem, problems

__all__ = [
    "BATCH_STATES",
    "AdviceReport",
    "AlertRow",
    "BatchFailureRow",
    "BatchPage",
    "BatchPartRow",
    "BatchRow",
    "CircuitStep",
    "Culprit",
    "Database",
    "Fleet",
    "HolderRow",
    "OperationRow",
    "Overview",
    "Page",
    "Percentiles",
    "PoolRow",
    "Problem",
    "ProcessRow",
    "RepeatedStatementRow",
    "Series",
    "SlowStatementRow",
    "StrangerRow",
    "advice",
    "alerts",
    "batch",
    "batch_failures",
    "batch_of",
    "batches",
    "culprits",
    "databases",
    "holders",
    "holders_left_out",
    "key_of",
    "key_of_batch",
    "operations",
    "overview",
    "own",
    "problems",
    "processes",
    "read",
    "remembered",
    "repeated_statements",
    "slow_statements",
    "strangers",
    "target_of",
]
