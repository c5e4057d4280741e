"""
A stand-in for the post office: slow, and it needs no database. What it has taken is in a journal, one line a letter.

It is an email backend of Django's, so that the tasks send as they would anywhere.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from testproject.campaigns.folder import folder, note, notes

SECONDS = 0.05
"""For each letter."""
HOST = "shop.example"


class PostOffice(BaseEmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for each in email_messages:
            self.take(each)
        return len(email_messages)

    def take(self, letter: EmailMessage) -> None:
        time.sleep(SECONDS)
        note(
            journal(folder()),
            {"id": letter.message()["Message-ID"], "to": letter.to, "campaign": letter.extra_headers["X-Campaign"]},
        )


def letter(campaign: int, subject: str, address: str, key: str | None = None) -> EmailMessage:
    """
    Args:
        key: the same for each attempt to send this letter to this recipient; without it each is a new letter.
    """
    headers = {"X-Campaign": str(campaign)}
    if key is not None:
        headers["Message-ID"] = f"<{key}@{HOST}>"
    return EmailMessage(subject, f"Dear {address}, ...", f"news@{HOST}", [address], headers=headers)


def journal(where: Path) -> Path:
    return where / "post.jsonl"


def taken(where: Path) -> list[dict[str, Any]]:
    """Every letter that was handed in, in that order."""
    return list(notes(journal(where)))


def delivered(letters: list[dict[str, Any]]) -> Counter[str]:
    """
    How many letters each address finds in its box. The receiving side drops a letter whose Message-ID it has seen, as
    many mail servers do; it can't tell otherwise.
    """
    return Counter({each["id"]: each["to"][0] for each in letters}.values())
