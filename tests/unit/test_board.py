"""What `status --watch` draws: it fits, and the most urgent stands at the top."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_dbpool.management.board import Look, Rates, View, board
from django_dbpool.management.text import coloured, cut, cut_line, line, plain, width_of, wrapped
from django_dbpool.management.watching import known
from tests.fixtures.fleets import fleet, holder, pool, process

WAITING = pool(in_use=4, idle=0, waiting=7)
IDLE = "idle in transaction"


def drawn(view: View, width: int = 119, height: int | None = 40, *, age: float = 1.0, late: bool = False) -> list[str]:
    lines = board(view, Rates(), Look(width, height, blocks=False), age=age, late=late, every=2.0, keys="q: quit")
    return [plain(each) for each in lines]


def crowd(processes: int = 50, holders: int = 50) -> View:
    held = [holder(backend_pid=pid, since_seconds=30.0 + pid, state=IDLE, name=f"r{pid}/") for pid in range(holders)]
    return View.of(fleet(*(process(number, pools=[WAITING], holders=held) for number in range(processes))))


@pytest.mark.parametrize("width", [20, 40, 79, 119, 250])
@pytest.mark.parametrize("height", [3, 10, 24, 40, 100])
def test_it_fits(width: int, height: int) -> None:
    lines = drawn(crowd(), width, height)
    assert len(lines) <= height
    assert max(map(width_of, lines)) <= width


def test_the_most_urgent_stands_at_the_top() -> None:
    lines = drawn(crowd(), 79, 24)
    text = "\n".join(lines)
    assert lines[0].startswith(" UNHEALTHY ")
    assert "350 waiting" in text
    assert text.index("waiting") < text.index("Look at this first") < text.index("What is wrong")


def test_what_is_left_out_is_counted() -> None:
    text = "\n".join(drawn(crowd(), 119, 60))
    shown = len(re.findall(r"^ +\d+ s  GET", text, re.MULTILINE))
    (more,) = re.findall(r"and (\d+) more\n\nProcesses", text)
    assert shown + int(more) == 2500
    (more,) = re.findall(r"and (\d+) more$", text)
    assert text.count("  web-1:") + int(more) - text[: text.index("\nProcesses")].count("  web-1:") == 50


def test_all_is_well() -> None:
    text = "\n".join(drawn(View.of(fleet(process()))))
    assert " HEALTHY   All is well" in text
    assert "1/4 in use, 0 waiting" in text
    assert "What is wrong" not in text
    assert "Look at this first" not in text


def test_whose_numbers_they_are() -> None:
    text = "\n".join(drawn(View.of(fleet(process(1), process(2)))))
    assert "2/8 in use by 2 processes, 0 waiting" in text


def test_nobody_is_there() -> None:
    assert "No process is at work" in drawn(View.of(fleet()))[0]
    alone = View.of(fleet(process(), source="process", remarks=("No process answers.",)))
    lines = drawn(alone)
    assert "No process can be asked" in lines[0]
    assert "No process answers." in lines


def test_its_age_and_that_it_is_stale() -> None:
    view = View.of(fleet(process()))
    assert drawn(view, age=3.0)[0].endswith(", 3 s ago")
    assert "STALE, 17 s old" in drawn(view, age=17.0, late=True)[0]
    remembered = View.of(fleet(process(), source="remembered", stale=True, age=40.0))
    assert "STALE, 42 s old" in drawn(remembered, age=2.0)[0]
    assert known(remembered.fleet) is remembered.fleet


def test_words_of_others_steer_no_terminal() -> None:
    held = [holder(unit="GET /\x1b[2J\n", thread="\x1b]0;x\x07", pinned="\x9b1m", since_seconds=99.0)]
    view = View.of(fleet(process(host="web\x1b[1m", holders=held), remarks=("plain",)))
    assert all(each.isprintable() for each in drawn(view))


def test_rates_are_of_what_was_read_lately() -> None:
    rates = Rates()
    databases = [
        View.of(
            fleet(process(pools=[pool(measures={"leases": leases, "refused": {"PoolExhausted": refused}})]))
        ).found.databases
        for leases, refused in ((100, 0), (400, 6), (1, 0))
    ]
    rates.add(databases[0], 0.0)
    assert rates.of("default") is None
    rates.add(databases[1], 10.0)
    assert rates.of("default") == (30.0, 6, 10.0)
    rates.add(databases[2], 20.0)
    assert rates.of("default") == (0.0, 0, 20.0), "a process has ended, its counts with it"
    rates.add(databases[2], 90.0)
    assert rates.of("default") is None, "the others are too old"


@given(st.text(max_size=30), st.integers(0, 40))
def test_cut_is_as_wide_as_there_is_room(text: str, width: int) -> None:
    assert width_of(cut(text, width)) <= max(width, 0)
    if width_of(text) <= width:
        assert cut(text, width) == text
    styled = line(("bad", text), "  ", ("dim", text))
    assert width_of("".join(part for _, part in cut_line(styled, width))) <= width


def test_letters_that_take_two_columns_or_none() -> None:
    assert [width_of(text) for text in ("abc", "漢字", "e\u0301")] == [3, 4, 1]
    assert cut("漢字漢字", 5) == "漢..."
    assert coloured(line(("bad", "x"), "y")) == "\x1b[1;31mx\x1b[0my"
    assert [plain(each) for each in wrapped("a b", 1, indent="  ")] == ["  a b"]
