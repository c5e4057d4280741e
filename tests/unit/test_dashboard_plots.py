"""Shapes of the dashboard's plots, and how it writes times."""

from __future__ import annotations

import re

import pytest
from django.utils import translation

from django_dbpool.admin import overview, plots
from django_dbpool.reports import Percentiles
from django_dbpool.reports.trouble import CODES
from django_dbpool.templatetags.dbpool_admin import ago, at_most, digest, duration, ticks, word


def test_bar_is_as_long_as_all_its_parts() -> None:
    parts = plots.bar([("used", 3), ("idle", 0), ("free", 5), ("waiting", 2)])
    assert [(part.kind, part.x, part.width) for part in parts] == [
        ("used", "0", "30"),
        ("free", "30", "50"),
        ("waiting", "80", "20"),
    ]


def test_bar_shows_the_smallest_part() -> None:
    assert [part.width for part in plots.bar([("used", 1), ("free", 9999)])] == ["0.5", "100"]


@pytest.mark.parametrize("parts", [[], [("used", 0)], [("used", 0), ("free", -3)]], ids=["none", "zero", "negative"])
def test_bar_of_nothing(parts: list[tuple[str, float]]) -> None:
    assert plots.bar(parts) == ()


def test_plot() -> None:
    found = plots.plot([900, 450, 0], [0, 4, 8], [0, 0, 2], [8, 8, 8])
    assert found.used == "M0 120L0 120L300 72L600 24L600 120Z"
    assert found.wanted == "M0 120L0 120L300 72L600 0L600 120Z"
    assert found.capacity == "M0 24L300 24L600 24"
    assert (found.top, found.peak_used, found.peak_waiting, found.peak_percent) == (10, 8, 2, 100)


def test_plot_without_waiting_callers_has_no_second_area() -> None:
    assert plots.plot([10, 0], [1, 1], [0, 0], [2, 2]).wanted == ""


@pytest.mark.parametrize(
    ("ago", "used"), [([], []), ([0], []), ([-5, 5000], [1, 1])], ids=["nothing", "no values", "outside"]
)
def test_plot_of_little(ago: list[float], used: list[int]) -> None:
    found = plots.plot(ago, used, [0] * len(used), [1] * len(used))
    assert found.peak_used == max(used, default=0)
    numbers = re.findall(r"-?[\d.]+", found.used)
    assert all(0 <= float(number) <= plots.WIDTH for number in numbers)


def test_plot_is_drawn_with_points_in_any_language() -> None:
    with translation.override("de"):
        assert "," not in plots.plot([0, 7], [1, 2], [0, 0], [3, 3]).used


def kinds(changes: list[tuple[str, float, str, str]], others: tuple[str, ...] = ("closed",)) -> list[tuple[str, str]]:
    return [(part.kind, part.width) for part in plots.timeline(changes, others)]


def test_timeline_of_one_circuit() -> None:
    assert kinds([]) == [("closed", "100")]
    opened = ("a", 450.0, "closed", "open")
    assert kinds([opened]) == [("closed", "50"), ("open", "50")]
    closed = ("a", 225.0, "open", "closed")
    assert kinds([closed, opened]) == [("closed", "50"), ("open", "25"), ("closed", "25")]


def test_timeline_is_the_worst_of_all_processes() -> None:
    changes = [("a", 600.0, "closed", "open"), ("b", 450.0, "closed", "half-open"), ("a", 300.0, "open", "closed")]
    assert [kind for kind, _ in kinds(changes)] == ["closed", "open", "open", "half-open"]
    assert kinds([], ("closed", "isolated")) == [("isolated", "100")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0 ms"),
        (0.0012, "1.2 ms"),
        (0.05, "50 ms"),
        (0.25, "0.25 s"),
        (4.21, "4.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3600, "1 h 0 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_duration_in_another_language() -> None:
    with translation.override("de"):
        assert duration(4.21) == "4,2 s"


def test_percentiles_are_bounds() -> None:
    times = Percentiles(p50=0.05, p95=None, p99=None, count=7, total=20.0)
    assert at_most(times.p50, times) == "≤ 50 ms"
    assert at_most(times.p95, times) == "> 10 s"
    assert at_most(None, Percentiles()) == "–"


def test_ago() -> None:
    assert (ago(100.0, 104.0), ago(104.0, 100.0), ago(None, 1.0)) == ("4.0 s", "0.0 ms", "–")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain", "plain"),
        ("run `a <b>` now", "run <code>a &lt;b&gt;</code> now"),
        ("`a` and `b`", "<code>a</code> and <code>b</code>"),
        ("it`s <i>", "it`s &lt;i&gt;"),
        ("`a` and it`s", "<code>a</code> and it`s"),
        ("", ""),
    ],
)
def test_commands_in_texts(text: str, html: str) -> None:
    assert ticks(text) == html


def test_words_and_digests() -> None:
    assert (str(word("idle in transaction")), word("<b>")) == ("idle in transaction", "<b>")
    assert digest(None) == digest("") != digest("\ud83d")


def test_every_problem_has_a_heading() -> None:
    assert set(CODES) <= set(overview.LABELS)
