"""The receivers that docs/alerts.md shows, with a real server behind the webhook; and its table of rules."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import django
import pytest
from django.core import mail
from django.test import override_settings

from django_dbpool.alerts import Change, alert_changed
from django_dbpool.core.alerts import RULES, Finding, Watch

# Pairs are deprecated since Django 6.0, which is the first to take addresses.
ADMINS: list[Any] = ["ops@example.org"] if django.VERSION >= (6, 0) else [("Operators", "ops@example.org")]
GUIDE = Path(__file__).parents[2] / "docs" / "alerts.md"


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Address of a web server, and what was posted to it."""
    found: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", found
        server.shutdown()
        thread.join()


def change() -> Change:
    watch = Watch({"circuit": RULES["circuit"]})
    (raised,) = watch.look([Finding("circuit", "default", 1.0, {"circuit": "open"})], now=0, at=7.0)
    return raised


@pytest.mark.filterwarnings("ignore:Django 2028 will not have a default mailer")
def test_webhook_and_mail(posted: tuple[str, list[dict[str, Any]]]) -> None:
    from tests.app import alerting

    try:
        with override_settings(ALERT_WEBHOOK=posted[0], ADMINS=ADMINS):
            results = alert_changed.send_robust(sender=Change, change=change())
        assert [result for _, result in results] == [None, None]
    finally:
        for each in (alerting.post_to_webhook, alerting.mail_what_is_critical):
            alert_changed.disconnect(each)
    (document,) = posted[1]
    assert document["text"].startswith("critical raised: database default: The circuit is open")
    assert (document["what"], document["alert"]["since"]) == ("raised", 7.0)
    (message,) = mail.outbox
    assert message.subject.endswith("Database default: circuit")
    assert "circuit closes by itself" in message.body


def test_the_table_is_the_code() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in GUIDE.read_text().splitlines()]
    table = {row[0].strip("`"): row[1:6] for row in rows if row and re.fullmatch(r"`\w+`", row[0])}
    windows = {"timeouts", "connect_failures", "connect_time"}
    assert table == {
        name: [
            "" if value is None else f"{value:g}"
            for value in (rule.warning, rule.critical, rule.after, rule.hold, rule.window if name in windows else None)
        ]
        for name, rule in RULES.items()
    }
    assert all(rule.clear == 0.85 for rule in RULES.values())
