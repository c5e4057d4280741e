"""Memory and start-up: each figure from processes of its own, the engines in turn."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

from benchmarks import engines
from benchmarks.case import Case, Comparison, Plan, Result
from benchmarks.engines import NATIVE, OURS, STOCK, Engine
from benchmarks.footprint import CONNECTIONS, WARM_UP
from benchmarks.measure import interleaved
from testproject.postgres import Server

CONTENDERS = (STOCK, NATIVE, OURS)
SIZE = CONNECTIONS + WARM_UP + 1
_server: list[Server] = []


def use_server(server: Server) -> None:
    _server[:] = [server]
    probes.cache_clear()


def probe(engine: Engine) -> dict[str, float]:
    entry = engine.entry(SIZE)
    for options in (entry.get("POOL"), entry.get("OPTIONS", {}).get("pool")):
        if options:
            options["min_size"] = 1  # a full pool would already have what is measured
    database = _server[0].django(ENGINE=engine.backend, **entry)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.footprint"],
        input=json.dumps(database),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"{engine.label}:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


@functools.cache
def probes(rounds: int) -> dict[Engine, list[dict[str, float]]]:
    """One process measures everything, so the cases share them."""
    return interleaved([engine for engine in CONTENDERS if engine.installed], probe, rounds)


def case(name: str, key: str, unit: str, description: str) -> Case:
    def run(plan: Plan) -> Result:
        values = {engine: [one[key] for one in found] for engine, found in probes(plan.footprint_rounds).items()}
        # A lease that keeps nothing has no ratio.
        comparisons = () if key == "lease" else (Comparison(engines.STOCK),)
        return Result(name, description, unit, values, comparisons, CONTENDERS, how="a process for each figure")

    return Case(name, run)


CASES = (
    case("import", "import", "ms", "From the bare interpreter to a Django that could connect."),
    case("modules", "modules", "modules", "How many modules that imports."),
    case("memory-process", "process", "KiB", "Resident memory of a process after its first query, idle."),
    case(
        "memory-connection",
        "connection",
        "KiB",
        "Resident memory for one more physical connection with the database wrapper that a thread has for it.",
    ),
    case("memory-lease", "lease", "bytes", "What one lease and its statement leave behind in Python's memory."),
)
