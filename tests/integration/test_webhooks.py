"""The services behind the webhooks: what the audit finds in them, and that the cured ones do their work once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from django_dbpool.audit import audit_paths
from testproject.harness.environment import ROOT, environment, manage
from testproject.harness.load import HttpClient
from testproject.harness.serving import Site
from testproject.postgres import Server
from testproject.webhooks import accounts, logs
from testproject.webhooks.accounts import Events
from testproject.webhooks.deliveries import NOBODY, Delivery, deliveries
from testproject.webhooks.sender import Sent, send
from tests.fixtures.databases import seeded_database

APP = Path("testproject/webhooks")
GOOD = Delivery("good", "payment.succeeded", "order-1", 700, "customer@example.com")
NONE = Events(done=0, failed=0, lost=0, repeated=0, undelivered=0, orphans=0)


def planted() -> list[str]:
    """The lines of the incident's services that end in the id of a rule."""
    lines = (ROOT / APP / "naive.py").read_text().splitlines()
    return [
        f"{APP / 'naive.py'}:{number} {found[1]}"
        for number, line in enumerate(lines, start=1)
        if (found := re.search(r"# (DBP\d+)$", line))
    ]


def test_audit_finds_what_was_planted() -> None:
    """As a user runs it: each planted bypass with its file and line, nothing else in the app, exit code 1."""
    command = [sys.executable, "testproject/manage.py", "dbpool", "audit", str(APP)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = re.findall(r"^(\S+?:\d+):\d+: (DBP\d+) ", done.stdout, re.MULTILINE)
    assert [" ".join(each) for each in found] == planted()
    assert {each.split()[-1] for each in planted()} == {"DBP101", "DBP102", "DBP201"}


def test_audit_finds_nothing_in_the_cured_services() -> None:
    assert audit_paths([ROOT / APP], exclude=["naive.py"]) == []


def test_migrations_are_complete(session_server: Server) -> None:
    manage(environment(session_server, "dbpool"), "makemigrations", "webhooks", "--check", "--dry-run")


@pytest.fixture(scope="module")
def shop(session_server: Server) -> Iterator[Server]:
    """A database with the services' tables and orders."""
    with seeded_database(session_server, "webhooks") as own:
        yield own


@pytest.fixture
def site(shop: Server, tmp_path: Path) -> Iterator[Site]:
    env = environment(
        shop,
        "dbpool",
        {"max_size": 4},
        DJANGO_SETTINGS_MODULE="testproject.webhooks.settings",
        DBPOOL_WEBHOOKS_LOG=str(tmp_path / "log"),
    )
    with Site("gunicorn", env, threads=4) as site:
        yield site
    with shop.connect() as connection:
        connection.execute("TRUNCATE webhooks_event, webhooks_booking, webhooks_notice")


@pytest.mark.ci
def test_each_event_once(shop: Server, site: Site, tmp_path: Path) -> None:
    """Sent twice at the same time, and again: done once, or recorded as failed with an explanation in the log."""
    todo = list(deliveries("event", 20, flawed=True))
    sent = send(site.host, site.port, [one for one in todo for _ in range(2)], senders=4)
    send(site.host, site.port, todo, senders=4)
    accounts.wait_settled(shop)
    assert not sent.refusals
    failing = [one for one in todo if one.is_unknown or one.is_for_nobody]
    counted = accounts.count_events(shop, Sent(todo, sent.acknowledged))
    assert counted == replace(NONE, done=20 - len(failing), failed=len(failing))
    alarms = [line for line in logs.read(tmp_path / "log") if line.is_alarm]
    told = {line.tags.get("event") or line.tags["operation_tags"]["event"] for line in alarms}
    assert told == {one.key for one in failing}
    # One that is for nobody fails once for each time it is worked off: whoever comes later finds it failed.
    assert all(line.error in ("Refused", None) for line in alarms)


@pytest.mark.ci
def test_no_session_is_left(shop: Server, site: Site) -> None:
    send(site.host, site.port, deliveries("event", 20, flawed=True), senders=4)
    accounts.wait_settled(shop)
    sessions = accounts.count_sessions(shop)
    with closing(HttpClient(site.host, site.port)) as client:
        pool = client.get("/webhooks/connections/").body
    assert pool == b'{"size": %d, "in_use": 0}' % sessions.open
    assert (sessions.open <= 4, sessions.in_transaction) == (True, 0)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("event", "bookings", "notices", "acknowledged", "fate"),
    [
        (("done", ""), 1, 1, True, "done"),
        (("failed", "why"), 0, 0, True, "failed"),
        (("failed", "why"), 1, 0, True, "failed"),
        (("failed", ""), 0, 0, True, "lost"),
        (("received", ""), 1, 0, True, "lost"),
        (("received", ""), 0, 0, False, "lost"),
        (("done", ""), 0, 1, True, "lost"),
        (("done", ""), 2, 1, True, "repeated"),
        (("done", ""), 1, 2, True, "repeated"),
        (None, 0, 0, True, "lost"),
        (None, 0, 0, False, "undelivered"),
    ],
)
def test_counting(
    shop: Server, event: tuple[str, str] | None, bookings: int, notices: int, acknowledged: bool, fate: str
) -> None:
    """What each trace on the server means for an event; no other count has it as well."""
    with shop.connect() as connection:
        if event:
            connection.execute(
                'INSERT INTO webhooks_event (key, kind, "order", receiver, amount, state, error, received_at)'
                " VALUES ('good', 'payment', 'order-1', %s, 700, %s, %s, now())",
                [NOBODY, *event],
            )
        for table, count in (("booking", bookings), ("notice", notices)):
            columns = "event, amount" if table == "booking" else "event"
            values = "'good', 700" if table == "booking" else "'good'"
            connection.execute(
                f"INSERT INTO webhooks_{table} ({columns}) SELECT {values} FROM generate_series(1, %s)",  # type: ignore[arg-type]
                [count],
            )
        try:
            sent = Sent([GOOD], {GOOD.key} if acknowledged else set())
            assert accounts.count_events(shop, sent) == replace(NONE, **{fate: 1})
        finally:
            connection.execute("TRUNCATE webhooks_event, webhooks_booking, webhooks_notice")


@pytest.mark.ci
def test_half_of_a_handlers_work_is_seen(shop: Server) -> None:
    with shop.connect() as connection:
        connection.execute("INSERT INTO webhooks_booking (event, amount) VALUES ('lost', 1)")
        try:
            assert accounts.count_events(shop, Sent()) == replace(NONE, orphans=1)
        finally:
            connection.execute("TRUNCATE webhooks_booking")
