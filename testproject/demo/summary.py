"""The table at the end of the runs, and what it means in one sentence."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from testproject.demo.console import Console
from testproject.demo.options import Options
from testproject.demo.rounds import DJANGO_POOL, OURS, PER_THREAD, Engine, Result

HEADINGS = ("answered/s", "p50", "p95", "failed", "connections")


def table(results: list[Result], options: Options, console: Console) -> Iterator[str]:
    threads = f"{options.threads} threads"
    yield console.bold(f"  {'':<30}" + "".join(f"{heading:>13}" for heading in HEADINGS))
    for over_http in (False, True):
        yield f"  gunicorn, {threads}, over HTTP" if over_http else f"  one process, {threads}, no HTTP"
        for result in results:
            if result.round.over_http == over_http:
                yield from _rows(result, console)


def _rows(result: Result, console: Console) -> Iterator[str]:
    figures = result.figures
    times = [_seconds(figures.p50), _seconds(figures.p95)]
    failed = f"{figures.failed:>13}"
    yield (
        f"    {result.round.engine.name:<28}{figures.rate:>13.1f}{times[0]:>13}{times[1]:>13}"
        f"{console.bad(failed) if figures.failed else failed}{result.connections:>13}"
    )
    for error, count in figures.errors.items():
        yield f"      {count} x {error}"


def meaning(results: list[Result], options: Options) -> str:
    """One sentence, made of the measured numbers alone."""
    plain = {result.round.engine: result for result in results if not result.round.over_http}
    http = {result.round.engine: result for result in results if result.round.over_http}
    theirs = [result for result in results if result.round.engine is DJANGO_POOL]
    sentence = (
        f"With {options.connections} connections django_dbpool answered {_times(plain)} as many requests "
        f"as Django's pool, over HTTP {_times(http)}, and {_share(plain)} of what "
        f"{plain[PER_THREAD].connections} connections answered, one for each thread; "
        f"it failed {_failed(ours(results))} requests, Django's pool {_failed(theirs)}."
    )
    return textwrap.fill(sentence, width=100)


def ours(results: list[Result]) -> list[Result]:
    return [result for result in results if result.round.engine is OURS]


def flawless(results: list[Result]) -> bool:
    """Whether our engine has answered requests in all its runs and failed none."""
    return all(result.figures.ok and not result.figures.failed for result in ours(results))


def _times(by_engine: dict[Engine, Result]) -> str:
    theirs = by_engine[DJANGO_POOL].figures.rate
    return f"{by_engine[OURS].figures.rate / theirs:.1f} times" if theirs else "infinitely many times"


def _share(by_engine: dict[Engine, Result]) -> str:
    whole = by_engine[PER_THREAD].figures.rate
    return f"{by_engine[OURS].figures.rate / whole:.0%}" if whole else "all"


def _failed(results: list[Result]) -> str:
    failed = sum(result.figures.failed for result in results)
    requests = sum(result.figures.requests for result in results)
    return f"{failed:,} of {requests:,}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
