"""The incidents' command line and table, and that the verdict of `tickets` can be bad."""

from __future__ import annotations

import importlib
import io
import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from testproject.incidents.management.commands.incident import INCIDENTS, Command
from testproject.incidents.outcome import Outcome, Report, Row, error_rows
from testproject.tickets import incident
from testproject.tickets.operations import KINDS, Operation
from testproject.tickets.outages import REFUSAL, Killed, Outage, circuit_of
from testproject.tickets.shop import Audit, ShopError
from testproject.tickets.verdict import CONNECTION_LOST, IDLE, NO_CONNECTION, Measured, judge, rows


class TestCommand:
    def test_list(self) -> None:
        out = io.StringIO()
        call_command(Command(), "--list", stdout=out)
        assert [line.split()[0] for line in out.getvalue().splitlines()] == [
            "campaigns",
            "reports",
            "tickets",
            "webhooks",
        ]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "Which incident"),
            (["reports", "--without", "retry"], "can't run without retry"),
            (["tickets", "--without", "min_size"], "can do without: retry, breaker"),
        ],
    )
    def test_refused(self, arguments: list[str], message: str) -> None:
        with pytest.raises(CommandError, match=message):
            call_command(Command(), *arguments)

    @pytest.mark.parametrize(("met", "code"), [(True, None), (False, 1)])
    def test_exit_code_is_the_verdict(self, monkeypatch: pytest.MonkeyPatch, met: bool, code: int | None) -> None:
        report = Report("tickets", "title", {}, [("stock",)], [Row("calls", [1])], [Outcome("stock", met, "so", {})])
        monkeypatch.setattr(incident, "run", lambda engines, *args: report)
        out = io.StringIO()
        with nullcontext() if code is None else pytest.raises(SystemExit) as ended:
            call_command(Command(), "tickets", stdout=out)
        assert (ended.value.code if ended else None) == code
        assert out.getvalue().endswith("stock: so\n")

    def test_a_run_that_breaks_has_no_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(*args: object) -> Report:
            raise ShopError("the shop on stock ended with 1")

        monkeypatch.setattr(incident, "run", run)
        with pytest.raises(CommandError, match="ended with 1") as caught:
            call_command(Command(), "tickets", stderr=io.StringIO())
        assert caught.value.returncode == 2


class TestReport:
    def report(self, *met: bool) -> Report:
        outcomes = [Outcome(f"engine{n}", good, f"verdict {n}", {"n": n}) for n, good in enumerate(met)]
        errors = [Counter(Lost=2), Counter(Lost=1, Busy=3)]
        table = [Row("calls"), Row("  answered", [10, 20]), *error_rows(errors)]
        return Report("name", "title", {"server": "one"}, [("a",), ("b",)], table, outcomes)

    def test_is_met_if_all_engines_are(self) -> None:
        assert [self.report(*met).met for met in [(True,), (True, True), (True, False), (False,)]] == [
            True,
            True,
            False,
            False,
        ]

    def test_table(self) -> None:
        lines = list(self.report(True, True).story())
        assert [line.split() for line in lines if line.startswith("   ")] == [
            ["a", "b"],
            ["answered", "10", "20"],
            ["failed:", "Lost", "2", "1"],
            ["failed:", "Busy", "0", "3"],
        ]
        assert len({len(line) for line in lines if line.startswith("   ")}) == 1
        assert lines[-2:] == ["engine0: verdict 0", "engine1: verdict 1"]

    def test_json(self) -> None:
        report = json.loads(json.dumps(self.report(True, False).as_json()))
        assert report["met"] is False
        assert report["engines"]["engine1"] == {"met": False, "verdict": "verdict 1", "n": 1}


def answered(kind: str, at: float) -> Operation:
    return Operation(kind, at - 0.001, at)


def failed(error: str, at: float, seconds: float = 0.001, retry_after: float | None = None) -> Operation:
    return Operation("reads", at - seconds, at, error, retry_after)


# The server is away from 10 to 26.
BEFORE = [answered(kind, 9.0) for kind in KINDS]
UNAVAILABLE = [failed("DatabaseUnavailable", 16.0 + n / 100, seconds=6) for n in range(8)]
REFUSED = [failed(REFUSAL, 16.5 + n, retry_after=59.5 - n) for n in range(10)]
AFTER = [answered(kind, 26.2) for kind in KINDS]


def outage(*calls: Operation, recovered: bool = True) -> Outage:
    return Outage(10.0, 26.0, recovered, list(calls))


GOOD = Measured(
    killed=Killed(IDLE, [answered("reads", 1.0), answered("reads", 1.02)]),
    restart=outage(*BEFORE, *AFTER),
    crash=outage(*BEFORE, *UNAVAILABLE, *REFUSED, *AFTER),
    orders=Audit(asked=9, confirmed=9, saved=9, lost=0, unknown=0, seats_off=0),
)
WITHOUT_REFUSALS = outage(*BEFORE, *UNAVAILABLE, *AFTER)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"restart": outage(*BEFORE, failed("AdminShutdown (57P01)", 10.1), *AFTER)}, "1 calls failed in the restart"),
        ({"restart": outage(*BEFORE, *AFTER, recovered=False)}, "after the restart"),
        ({"restart": outage(*AFTER[:2])}, "after the restart"),
        ({"killed": Killed(2, GOOD.killed.calls)}, "only 2 idle connections were killed"),
        ({"killed": Killed(IDLE, [failed("Lost", 1.0)])}, "1 of 1 calls failed"),
        ({"killed": Killed(IDLE, [answered("reads", 1.0), answered("reads", 1.2)])}, "in 0.20 s"),
        ({"crash": WITHOUT_REFUSALS}, "the circuit did not open"),
        ({"crash": outage(*UNAVAILABLE[:4], *REFUSED, *BEFORE, *AFTER)}, "the circuit did not open"),
        ({"crash": outage(*BEFORE, *UNAVAILABLE, *REFUSED[2:], *AFTER)}, "opened 2.46 s after the fifth"),
        (
            {"crash": outage(*BEFORE, *UNAVAILABLE, *(replace(call, began=call.ended - 0.006) for call in REFUSED))},
            "a refusal took 6.0 ms",
        ),
        (
            {"crash": outage(*BEFORE, *UNAVAILABLE, *(replace(call, retry_after=None) for call in REFUSED), *AFTER)},
            "come back after",
        ),
        (
            {"crash": outage(*GOOD.crash.calls, failed("DatabaseUnavailable", 26.1))},
            "1 calls failed as a trial",
        ),
        ({"crash": outage(*GOOD.crash.calls, failed("PoolTimeout", 20.0))}, "PoolTimeout in the crash"),
        (
            {"crash": outage(*BEFORE, *UNAVAILABLE, *REFUSED, *(answered(kind, 27.5) for kind in KINDS))},
            "1.50 s after the server's return",
        ),
        ({"orders": replace(GOOD.orders, saved=8, lost=1)}, "exactly once"),
        ({"orders": replace(GOOD.orders, seats_off=3)}, "exactly once"),
        ({"orders": replace(GOOD.orders, saved=10, unknown=1)}, "exactly once"),
        ({"orders": Audit(0, 0, 0, 0, 0, 0)}, "exactly once"),
    ],
)
def test_verdict_of_ours(changed: dict[str, Any], fault: str) -> None:
    good = judge("dbpool", GOOD)
    assert good.met
    assert good.verdict.startswith("Gone: 0 failed calls in the restart")
    bad = judge("dbpool", replace(GOOD, **changed))
    assert not bad.met
    assert fault in bad.verdict
    assert bad.verdict.startswith("Not gone: ")


FAILING = Measured(
    killed=Killed(IDLE, [failed(NO_CONNECTION, 16.0, seconds=15), answered("reads", 16.1)]),
    restart=outage(*BEFORE, failed(CONNECTION_LOST, 10.1), *AFTER),
    crash=outage(*BEFORE, failed(NO_CONNECTION, 25.1, seconds=15), *AFTER),
    orders=GOOD.orders,
)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"restart": GOOD.restart}, f"no call failed with {CONNECTION_LOST}"),
        ({"restart": outage(failed("OperationalError: gone", 10.1))}, f"no call failed with {CONNECTION_LOST}"),
        ({"killed": GOOD.killed}, f"no call failed with {NO_CONNECTION} after"),
        ({"killed": Killed(0, FAILING.killed.calls)}, "only 0 idle connections were killed"),
        ({"crash": GOOD.crash}, "no call waited 15 s"),
        ({"crash": outage(failed(NO_CONNECTION, 12.0, seconds=2))}, "no call waited 15 s"),
    ],
)
def test_verdict_of_stock(changed: dict[str, Any], fault: str) -> None:
    assert judge("stock", FAILING).met
    bad = judge("stock", replace(FAILING, **changed))
    assert not bad.met
    assert fault in bad.verdict
    assert bad.verdict.startswith("Not reproduced: ")


def test_table_of_both() -> None:
    """Each row has a cell for each engine, whatever one of them has not."""
    table = rows([FAILING, GOOD])
    assert {len(row.cells) for row in table} == {0, 2}
    cells = {row.label.strip(): list(row.cells) for row in table}
    assert cells[f"failed: {CONNECTION_LOST}"] == [1, 0]
    assert cells["a refusal takes"] == ["-", "1.0 ms"]
    assert cells["first answer after the return"] == ["0.20 s", "0.20 s"]


def test_circuit_as_callers_see_it() -> None:
    circuit = circuit_of(GOOD.crash)
    assert circuit is not None
    assert circuit.refused == 10
    assert circuit.opened_after == pytest.approx(0.46)
    assert circuit.median == pytest.approx(0.001)
    assert circuit.retry_after == (50.5, 59.5)
    assert circuit.paid == 0
    assert circuit_of(WITHOUT_REFUSALS) is None


def test_page_of_the_documentation() -> None:
    """It has a section for each incident, and names what can be switched off."""
    page = (Path(__file__).resolve().parents[2] / "docs/incidents.md").read_text()
    for name in INCIDENTS:
        module = importlib.import_module(f"testproject.{name}.incident")
        assert f"\n## `{name}`: {module.TITLE}\n" in page
        assert all(f"`{switch}`" in page for switch in module.SWITCHES)
