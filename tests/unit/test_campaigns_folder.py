"""The journal of the campaigns' incident, read while others write it."""

from __future__ import annotations

from pathlib import Path

from testproject.campaigns.folder import note, notes


def test_what_is_just_being_written_is_not_read_yet(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    assert list(notes(journal)) == []
    note(journal, {"number": 1})
    with journal.open("a") as lines:
        lines.write('{"number": 2, "proc')
        lines.flush()
        assert [line["number"] for line in notes(journal)] == [1]
        lines.write('ess": 7}\n')
    assert [line["number"] for line in notes(journal)] == [1, 2]
