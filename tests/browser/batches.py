"""Runs of batches as a night in a shop leaves them, written into its database; who works on them lives elsewhere."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.browser.shop import Shop

_RUN = (
    "INSERT INTO django_dbpool_batchrun (name, model, key, wanted, state, total, task, arguments, parts,"
    " takeover_after, created, ended) VALUES (%s, %s, 'id', %s, %s, %s, %s, '{}', %s, 60, now() - %s * interval '1 s',"
    " CASE WHEN %s = 'open' THEN NULL ELSE now() - interval '900 s' END) RETURNING id"
)
_PART = (
    "INSERT INTO django_dbpool_batchcheckpoint (run_id, part, token, runner, heartbeat, reason, done, failed, batches,"
    " finished, begun, begun_with, restarts, restarted_with, last_key, upper) VALUES (%s, %s, %s, %s,"
    " now() - %s * interval '1 s', %s, %s, %s, %s, %s, now() - interval '300 s', 0, %s, %s, %s::jsonb, %s::jsonb)"
)
_FAILURE = (
    "INSERT INTO django_dbpool_batchfailure (run_id, key, skipped, error_type, error, place, times, created)"
    " VALUES (%s, %s::jsonb, true, %s, %s, %s, 1, now() - %s * interval '1 s')"
)

ERRORS = (
    ("smtplib.SMTPRecipientsRefused", "550 5.1.1 <no.such@example.org>: Recipient address rejected"),
    ("builtins.ValueError", "no address: customer was deleted"),
    ("django.db.utils.DataError", "value too long for type character varying(60)"),
)


def plant(shop: Shop) -> None:
    """One of each kind: at work alone and in parts, dead, failed, paused, done and cancelled."""
    with shop.observer() as observer:
        observer.execute("TRUNCATE django_dbpool_batchrun CASCADE")
        run(observer, "expire vouchers 2026-11-20", "vouchers.expire", state="done", total=88_120, age=90_000)
        part(observer, 88_120, 88_120, reason="done", finished=True)
        run(observer, "merge customers", "customers.merge", state="cancelled", wanted="cancel", total=4_000, age=80_000)
        part(observer, 1_150, 4_000, reason="cancelled", finished=True)
        run(observer, "recount stock", "", total=None, age=7_200)
        part(observer, 31_400, 90_000, reason="failed: IntegrityError", heartbeat=6_900)
        run(observer, "thumbnails of spring", "media.thumbnails", wanted="pause", total=12_500, age=3_900)
        part(observer, 9_300, 12_500, reason="paused", heartbeat=1_200)
        run(observer, "clean audio 2026-11-21", "audio.clean", total=9_120, age=2_400)
        part(observer, 150, 9_120, runner="worker-3 2203 5d2e87b640f3a9c5", heartbeat=400, restarts=2)
        run(observer, "prices of all suppliers", "prices.refresh", parts=4, total=1_000_000, age=1_800)
        for number, done in enumerate((182_500, 96_050, 201_000, 250_000)):
            runner, over = f"worker-{number % 2 + 1} {4711 + number} 0f3a9c51d2e87b6{number}", number == 3
            reason = "done" if over else ""
            upper = (number + 1) * 250_000
            part(observer, done, upper, number, runner, 0.4, reason=reason, finished=over, first=number * 250_000)
        pk = run(observer, "newsletter 7", "campaigns.send", total=20_000, age=310)
        part(observer, 12_400, 20_000, runner="worker-1 4711 0f3a9c51d2e87b64", heartbeat=0.4, failed=30)
        for number in range(30):
            kind, text = ERRORS[number % 3 if number % 7 else 0]
            key = str([12_431 - 417 * number])
            observer.execute(_FAILURE, [pk, key, kind, text, "shop/campaigns/tasks.py:41 in send", 5 + 9 * number])


def run(
    observer: psycopg.Connection[Any],
    name: str,
    task: str,
    *,
    total: int | None,
    age: float,
    parts: int = 1,
    wanted: str = "run",
    state: str = "open",
) -> int:
    model = f"{task.partition('.')[0] or 'stock'}.Item".title().replace("Item", "item")
    row = observer.execute(_RUN, [name, model, wanted, state, total, task, parts, age, state]).fetchone()
    assert row is not None
    return int(row[0])


def part(
    observer: psycopg.Connection[Any],
    done: int,
    upper: int,
    number: int = 0,
    runner: str = "worker-2 812 77b640f3a9c51d2e",
    heartbeat: float = 1_000.0,
    *,
    first: int = 0,
    reason: str = "",
    failed: int = 0,
    finished: bool = False,
    restarts: int = 0,
) -> None:
    """Of the run that was made last. Without a reason it has a runner, or its token."""
    row = observer.execute("SELECT max(id) FROM django_dbpool_batchrun").fetchone()
    assert row is not None
    batches = done // 50
    values = [row[0], number, "" if reason else "x", runner, heartbeat, reason, done, failed, batches, finished]
    values += [restarts, batches if restarts else 0, str([first + done]), str([upper])]
    observer.execute(_PART, values)
