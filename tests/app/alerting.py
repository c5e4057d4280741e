"""Receivers of alerts, as docs/alerts.md shows them."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from django.conf import settings
from django.core.mail import mail_admins
from django.dispatch import receiver

from django_dbpool.alerts import Change, alert_changed


@receiver(alert_changed)
def post_to_webhook(change: Change, **kwargs: Any) -> None:
    alert = change.alert
    text = f"{alert.severity} {change.what}: database {alert.alias}: {alert}"
    request = urllib.request.Request(
        settings.ALERT_WEBHOOK,  # type: ignore[misc]
        data=json.dumps({"text": text, **change.to_json()}).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=5).close()


@receiver(alert_changed)
def mail_what_is_critical(change: Change, **kwargs: Any) -> None:
    alert = change.alert
    if alert.severity == "critical" and change.what in ("raised", "escalated"):
        mail_admins(f"Database {alert.alias}: {alert.rule}", str(alert))
