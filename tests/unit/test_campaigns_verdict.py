"""That the verdict of incident `campaigns` can be bad, and what a letter counts for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testproject.campaigns import post
from testproject.campaigns.counting import Letters, Recordings
from testproject.campaigns.folder import note
from testproject.campaigns.verdict import FULL, LOCKED, Measured, Tasks, judge, rows
from testproject.campaigns.watching import Seen
from testproject.harness.load import Figures


def load(ok: int = 100, p95: float | None = 0.25, **errors: int) -> Figures:
    return Figures(clients=4, seconds=5, ok=ok, errors=errors, p50=0.2, p95=p95)


OURS = Measured(
    quiet=load(),
    busy=load(p95=0.3),
    site=Seen(peak=4),
    worker=Seen(peak=3, longest=0.02, in_transaction=2),
    refused_connections=0,
    tasks=Tasks([None, None, None], 20),
    lost=0,
    letters=Letters(recipients=50, handed_in=51, once=50, twice=0, missing=0, miscounted=0),
    recordings=Recordings(expired=0, forgotten=0, lost=0),
)
STOCK = replace(
    OURS,
    busy=load(ok=20, **{FULL: 80, LOCKED: 7}),
    worker=Seen(peak=3, standing={1, 2, 3}, longest=1, in_transaction=60),
    refused_connections=80,
    lost=100,
    letters=replace(OURS.letters, handed_in=60, once=40, twice=10),
)


@pytest.mark.parametrize(("engine", "measured"), [("stock", STOCK), ("dbpool", OURS)])
def test_good(engine: str, measured: Measured) -> None:
    outcome = judge(engine, measured)
    assert outcome.met, outcome.verdict
    assert all(len(row.cells) == 1 for row in rows([measured]) if row.cells)


def letters(good: Measured, **changed: int) -> Measured:
    return replace(good, letters=replace(good.letters, **changed))


def recordings(good: Measured, **changed: int) -> Measured:
    return replace(good, recordings=replace(good.recordings, **changed))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda good: replace(good, quiet=load(DatabaseUnavailable=1)), "1 of 101 pages failed alone"),
        (lambda good: replace(good, busy=load(PoolExhausted=2)), "pages failed beside the background work (PoolExh"),
        (lambda good: replace(good, busy=load(ok=0, p95=None)), "took up to -"),
        (lambda good: replace(good, busy=load(p95=1.01)), "took up to 1010 ms, not 1000 ms"),
        (lambda good: replace(good, refused_connections=1), "refused 1 connections"),
        (lambda good: replace(good, worker=Seen(standing={7}, longest=0.9)), "1 sessions of the worker were idle"),
        (lambda good: replace(good, tasks=Tasks([None, "BatchRunTaken"], 9)), "1 tasks failed (BatchRunTaken: 1)"),
        (lambda good: letters(good, once=49, twice=1), "1 recipients got a letter twice"),
        (lambda good: letters(good, once=49, missing=1), "1 got none"),
        (lambda good: letters(good, miscounted=1), "of 1 the database says"),
        (lambda good: replace(good, lost=1), "1 recordings had lost their file when"),
        (lambda good: recordings(good, lost=1), "at the end 1 have no file"),
        (lambda good: recordings(good, forgotten=1), "1 files no recording"),
        (lambda good: recordings(good, expired=1), "1 are left"),
    ],
)
def test_not_gone(spoil: Callable[[Measured], Measured], reason: str) -> None:
    outcome = judge("dbpool", spoil(OURS))
    assert not outcome.met
    assert outcome.verdict.startswith("Not gone: ")
    assert reason in outcome.verdict


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda bad: replace(bad, busy=load(**{LOCKED: 1})), f"no page failed with {FULL}"),
        (lambda bad: replace(bad, busy=load(**{FULL: 1})), f"no page failed with {LOCKED}"),
        (lambda bad: replace(bad, quiet=load(**{FULL: 1})), "1 pages failed before the background work began"),
        (lambda bad: replace(bad, refused_connections=0), "the server refused no connection"),
        (lambda bad: replace(bad, worker=Seen(standing={1, 2})), "only 2 sessions of the worker"),
        (lambda bad: letters(bad, twice=0), "nobody got a letter twice"),
        (lambda bad: replace(bad, lost=0), "no recording lost its file"),
    ],
)
def test_not_reproduced(spoil: Callable[[Measured], Measured], reason: str) -> None:
    outcome = judge("stock", spoil(STOCK))
    assert not outcome.met
    assert outcome.verdict.startswith("Not reproduced: ")
    assert reason in outcome.verdict


def hand_in(where: Path, letter: Any) -> None:
    note(post.journal(where), {"id": letter.message()["Message-ID"], "to": letter.to})


def test_a_letter_that_is_handed_in_twice_is_one_if_it_has_a_key(tmp_path: Path) -> None:
    """And two without: the receiver tells them by nothing else."""
    for key in ("known", "known", None, None, "another"):
        hand_in(tmp_path, post.letter(1, "News", "one@example.com" if key == "known" else "two@example.com", key))
    found = post.taken(tmp_path)
    assert len(found) == 5
    assert post.delivered(found) == {"one@example.com": 1, "two@example.com": 3}
