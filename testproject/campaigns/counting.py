"""What has come of it in the end: letters, rows, recordings and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testproject.audio import store
from testproject.campaigns import post
from testproject.postgres import EmbeddedServer, Server

TOO_MANY_CONNECTIONS = "53300"


@dataclass(frozen=True)
class Letters:
    recipients: int
    handed_in: int
    """Letters that the post office was given."""
    once: int
    """Recipients that find one letter in their box."""
    twice: int
    """Recipients that find more than one."""
    missing: int
    """Recipients that find none."""
    miscounted: int
    """Recipients of whom the database knows something else than that they were sent one."""


def count_letters(server: Server, where: Path) -> Letters:
    with server.connect() as connection:
        sent: dict[str, int] = dict(connection.execute("SELECT address, sent FROM campaigns_recipient").fetchall())
    letters = post.taken(where)
    found = post.delivered(letters)
    return Letters(
        recipients=len(sent),
        handed_in=len(letters),
        once=sum(found[address] == 1 for address in sent),
        twice=sum(found[address] > 1 for address in sent),
        missing=sum(not found[address] for address in sent),
        miscounted=sum(times != 1 for times in sent.values()),
    )


@dataclass(frozen=True)
class Recordings:
    expired: int
    """Recordings that should be gone, and are known."""
    forgotten: int
    """Files that nobody knows any more."""
    lost: int
    """Recordings that are known, and their file is gone: who wants to hear one gets an error."""


def count_recordings(server: Server, where: Path) -> Recordings:
    # Files first: one that goes together with its row must not be taken for lost.
    names = {path.name for path in store.files(where).iterdir()}
    with server.connect() as connection:
        known: dict[str, bool] = dict(connection.execute("SELECT file, expired FROM audio_recording").fetchall())
    return Recordings(
        expired=sum(known.values()),
        forgotten=len(names - known.keys()),
        lost=len(known.keys() - names),
    )


def refused_connections(server: EmbeddedServer) -> int:
    """Where their SQLSTATE is: the log's prefix ends with it."""
    return sum(f" {TOO_MANY_CONNECTIONS} FATAL:" in line for line in server.log().splitlines())


def outbox_size(server: Server) -> int:
    with server.connect() as connection:
        row = connection.execute("SELECT count(*) FROM django_dbpool_batchmessage").fetchone()
    assert row is not None
    return int(row[0])
