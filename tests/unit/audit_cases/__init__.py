"""Samples for the rules of the audit: each line that has to be reported ends in ``#> <rule>``, and no other may be."""

from __future__ import annotations

from . import connections, iterators, other_loops, projects, queries_in_loops, threads, transactions

MODULES = (connections, threads, queries_in_loops, other_loops, transactions, iterators, projects)
CASES = {name: source for module in MODULES for name, source in module.CASES.items()}
assert len(CASES) == sum(len(module.CASES) for module in MODULES)  # no name twice
