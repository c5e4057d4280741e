"""What `dbpool terminate --older-than` understands."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from django_dbpool.management.subcommands.terminate import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5 min", 90), ("5min", 300), ("5m", 300), ("2h", 7200), (" 1 HOUR ", 3600)],
)
def test_times(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.5", "-1", "1e3", "5 weeks", "31000h", "nan", "5min 3s", "\u0663"])
def test_no_times(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        duration(text)
