"""Paired measuring: every engine once per round, order shuffled, and statistics on the ratio of each round.

A busy machine slows all engines of a round alike, so the ratio of a round is steadier than any time in it.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import TypeVar

Subject = TypeVar("Subject", bound=Hashable)
Value = TypeVar("Value")

BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios by round, with its 95 % percentile bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int


def paired_ratio(values: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """How `values` compare with `baseline`, element by element: element i of both is from round i."""
    ratios = [value / base for value, base in zip(values, baseline, strict=True)]
    resample = random.Random(0)
    medians = sorted(statistics.median(resample.choices(ratios, k=len(ratios))) for _ in range(BOOTSTRAP_SAMPLES))
    edge = round(0.025 * BOOTSTRAP_SAMPLES)
    return Ratio(statistics.median(ratios), medians[edge], medians[-1 - edge], len(ratios))


def interleaved(
    subjects: Iterable[Subject], measure: Callable[[Subject], Value], rounds: int
) -> dict[Subject, list[Value]]:
    """Measure every subject once per round, each round in an order of its own."""
    order = list(subjects)
    results: dict[Subject, list[Value]] = {subject: [] for subject in order}
    shuffle = random.Random(1).shuffle
    for done in range(rounds):
        print(f"\r  round {done + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        shuffle(order)
        for subject in order:
            results[subject].append(measure(subject))
    print(file=sys.stderr)
    return results


@contextmanager
def quiet_gc() -> Iterator[None]:
    """Collect now and not during the measurement, so that no engine pays for another's garbage."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds_per_call(operation: Callable[[], object], calls: int) -> float:
    """Mean wall time of `calls` calls, after a tenth as many unmeasured ones to warm the caches."""
    with quiet_gc():
        for _ in repeat(None, max(1, calls // 10)):
            operation()
        start = time.perf_counter()
        for _ in repeat(None, calls):
            operation()
        return (time.perf_counter() - start) / calls


def calls_within(operation: Callable[[], object], seconds: float) -> int:
    """How many calls fill `seconds`; at least one."""
    return max(1, round(seconds / seconds_per_call(operation, 50)))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
