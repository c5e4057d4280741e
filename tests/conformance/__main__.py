"""Run Django's own test suite on the stock engine and on ours, and fail if ours loses a test."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from concurrent import futures
from pathlib import Path

from . import environments, report, runs
from .compare import BROKEN, BadExpectation, Expected, read_expected, selected, stale
from .runs import ENGINES, STOCK, Plan, Processes, Run

APPS = [
    "backends",
    "transactions",
    "transaction_hooks",
    "select_for_update",
    "delete",
    "servers",
    "async",
    "test_utils",
    "postgres_tests",
    "timezones",
]
GIS_APPS = ["gis_tests"]
EXPECTED = Path(__file__).with_name("expected_differences.toml")
STOCK_REPEATS = 3
MAX_RECHECKED = 20


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--apps", nargs="+", metavar="LABEL", help="apps or test ids")
    what.add_argument("--all", action="store_true", help="the whole suite")
    parser.add_argument("--gis", action="store_true", help="on the PostGIS engines; its apps unless told otherwise")
    parser.add_argument(
        "--django", metavar="5.2,6.0", help="build an environment for each (default: the installed Django)"
    )
    parser.add_argument(
        "--mode", default="transaction,session", help=f"of {', '.join(e for e in ENGINES if e != STOCK)}"
    )
    parser.add_argument("--parallel", default="1", metavar="N", help="passed to Django's runner (default: 1)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="suites at the same time")
    parser.add_argument("--limit", type=float, metavar="S", help="seconds that one suite may take")
    parser.add_argument("--fresh", action="store_true", help="ignore cached stock results and environments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    chosen = parser.parse_args(arguments)
    chosen.modes = chosen.mode.split(",")
    for mode in chosen.modes:
        if mode not in ENGINES or mode == STOCK:
            parser.error(f"unknown mode {mode!r}")
    chosen.labels = () if chosen.all else tuple(chosen.apps or (GIS_APPS if chosen.gis else APPS))
    return chosen


def prepare(chosen: argparse.Namespace) -> list[Plan]:
    if chosen.django is None:
        made = [environments.environment(sys.executable, chosen.parallel != "1")]
    else:
        made = []
        for series in chosen.django.split(","):
            say(f"preparing Django {series}")
            made.append(environments.virtual_environment(series, chosen.all, chosen.fresh))
    limit = chosen.limit or (7200.0 if chosen.all else 1800.0)
    for environment in made:
        say(str(environment))
    return [
        Plan(environment, engine, chosen.labels, chosen.parallel, limit, gis=chosen.gis)
        for environment in made
        for engine in (STOCK, *chosen.modes)
    ]


def execute_all(plans: Sequence[Plan], jobs: int, use_cache: bool) -> list[Run]:
    """Run the plans, `jobs` at a time, in their order; only stock results are ever taken from the cache."""
    processes = Processes()
    with futures.ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(execute, plan, processes, use_cache) for plan in plans]
        try:
            return [future.result() for future in started]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise


def execute(plan: Plan, processes: Processes, use_cache: bool) -> Run:
    run = runs.cached(plan) if use_cache and plan.engine == STOCK else None
    if run is None:
        run = runs.execute(plan, processes)
        if plan.engine == STOCK:
            runs.keep(run)
    origin = "from the cache" if run.cached else f"{run.seconds:.0f} s"
    say(f"{plan}, PostgreSQL {run.server}: {run.count('ok')} passed, {run.count(*BROKEN)} failed, {origin}")
    return run


def judge_all(done: Sequence[Run], expected: Sequence[Expected]) -> list[report.Judged]:
    stocks = {run.plan.environment.django: run for run in done if run.plan.engine == STOCK}
    return [
        report.judge(stocks[run.plan.environment.django], run, expected) for run in done if run.plan.engine != STOCK
    ]


def problems_of(done: Sequence[Run], labels: Sequence[str]) -> list[str]:
    """What makes a comparison worthless: a run that broke off, a label of which nothing passes on stock."""
    problems = [f"{run.plan}: {run.problem}" for run in done if run.problem]
    if len({run.server for run in done}) > 1:
        problems.append("the runs saw different versions of PostgreSQL: repeat with --fresh")
    for run in done:
        if run.plan.engine == STOCK:
            passed = [test_id for test_id, outcome in run.outcomes.items() if outcome.outcome == "ok"]
            for label in labels or ("",):
                if not any(selected(test_id, label and (label,)) for test_id in passed):
                    problems.append(f"{run.plan}: no test of {label or 'the suite'} passes: nothing to compare")
    return problems


def recheck(judged: Sequence[report.Judged], jobs: int) -> list[str]:
    """A test that also fails on stock when repeated there is flaky: only such a one is run again here, once.

    Puts the second outcome in place of the first; returns what was run again, to be printed.
    """
    suspects: dict[Plan, set[str]] = {}
    for each in judged:
        # An error outside of tests has a name that is no label; many surprises are no flakiness.
        if len(each.surprises) <= MAX_RECHECKED and not each.ours.problem:
            names = {surprise.id for surprise in each.surprises if " " not in surprise.id}
            suspects.setdefault(each.stock.plan, set()).update(names)
    notes = []
    for plan, names in suspects.items():
        if not names:
            continue
        alone = dataclasses.replace(plan, labels=tuple(sorted(names)), parallel="1")
        again = execute_all([alone] * STOCK_REPEATS, jobs, use_cache=False)
        flaky = {name for run in again for name in names if name in run.outcomes and run.outcomes[name].outcome != "ok"}
        notes.append(f"{plan}: {len(names)} tests {STOCK_REPEATS} times alone, {len(flaky)} are flaky there")
        for each in judged:
            if each.stock.plan == plan:
                notes += repeat(each.ours, flaky & {surprise.id for surprise in each.surprises})
    return notes


def repeat(ours: Run, names: AbstractSet[str]) -> list[str]:
    if not names:
        return []
    (second,) = execute_all([dataclasses.replace(ours.plan, labels=tuple(sorted(names)))], 1, use_cache=False)
    found = {name: second.outcomes[name] for name in sorted(names) if name in second.outcomes}
    ours.outcomes.update(found)
    return [f"{ours.plan}: {name} once more: {outcome.outcome}" for name, outcome in found.items()]


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    started = time.monotonic()
    chosen = options(arguments)
    try:
        expected = read_expected(EXPECTED)
        if chosen.gis and (missing := environments.missing_for_gis()):
            print(f"SKIPPED Django's gis tests: {missing}")
            return 0
        plans = prepare(chosen)
    except (BadExpectation, environments.SetupFailed) as error:
        print(error, file=sys.stderr)
        return 2
    done = execute_all(plans, chosen.jobs, use_cache=not chosen.fresh)
    judged = judge_all(done, expected)
    rechecks = recheck(judged, chosen.jobs)
    if rechecks:
        judged = judge_all(done, expected)
    compared = {
        (each.ours.plan.environment.series, each.ours.plan.mode): each.comparison
        for each in judged
        if not (each.stock.problem or each.ours.problem)
    }
    stale_entries, warnings = stale(expected, compared, chosen.labels)
    problems = [*problems_of(done, chosen.labels), *stale_entries]
    verdict = report.Verdict(judged, problems, warnings, rechecks, time.monotonic() - started)
    print(report.render(verdict, expected, chosen.verbose))
    if chosen.json:
        chosen.json.write_text(json.dumps(report.as_json(verdict), indent=1) + "\n", encoding="utf-8")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    # Suites and servers have sessions of their own: they end with this process only if it ends in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
