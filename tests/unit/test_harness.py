"""What the test project measures with: load, verdict, handling of Ctrl-C, choice of engine."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from testproject.databases import APPLICATION_NAME, database_from
from testproject.harness import folder
from testproject.harness.interrupts import Interrupts, Stopped
from testproject.harness.load import Figures, quantile
from testproject.harness.load import run as run_load
from testproject.harness.queue import Queue
from testproject.reports import incident


def page_run(
    page: str, ok: int = 32, errors: dict[str, int] | None = None, peak: int = 8, refused: int = 0
) -> incident.PageRun:
    figures = Figures(clients=8, seconds=1.0, ok=ok, errors=errors or {}, p50=None, p95=None)
    return incident.PageRun(page, figures, peak=peak, opened=peak, refused=refused)


@pytest.mark.parametrize(
    ("engine", "naive", "met"),
    [
        ("stock", {"errors": {"TooManyConnections (53300)": 3}, "refused": 9}, True),
        ("stock", {}, False),
        ("stock", {"errors": {"PoolTimeout": 32}}, False),
        ("dbpool", {}, True),
        ("dbpool", {"errors": {"PoolExhausted": 1}}, False),
        ("dbpool", {"peak": incident.MAX_SIZE + 1}, False),
        ("dbpool", {"refused": 1}, False),
        ("dbpool", {"ok": 0}, False),
    ],
)
def test_verdict(engine: str, naive: dict[str, Any], met: bool) -> None:
    runs = {"naive": page_run("naive", **naive), "fixed": page_run("fixed")}
    assert incident.judge(engine, runs)[0] is met


class TestLoad:
    def test_counts_every_request_and_names_every_error(self) -> None:
        outcomes = iter([None, "Busy", None, ValueError("no")] * 5)

        def call() -> str | None:
            outcome = next(outcomes)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        figures = run_load([call], requests=20)
        assert (figures.requests, figures.ok) == (20, 10)
        assert figures.errors == {"Busy": 5, "ValueError": 5}

    def test_answers_after_the_end_do_not_count_but_failures_do(self) -> None:
        def slow(error: str | None) -> str | None:
            time.sleep(0.3)
            return error

        figures = run_load([lambda: slow(None), lambda: slow("Late")], seconds=0.1)
        assert (figures.ok, figures.errors) == (0, {"Late": 1})

    @pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.95, 4), (0.25, 1), (1.0, 4)])
    def test_quantile(self, share: float, value: float) -> None:
        assert quantile([1, 2, 3, 4], share) == value
        assert quantile([], share) is None


class TestInterrupts:
    def test_a_signal_waits_until_somebody_is_responsible(self) -> None:
        reached = []
        with pytest.raises(Stopped) as stopped, Interrupts() as interrupts:
            with interrupts.held():
                os.kill(os.getpid(), signal.SIGTERM)
                reached.append("end of the start")
            reached.append("never")
        assert reached == ["end of the start"]
        assert stopped.value.exit_code == 143

    def test_the_clean_up_is_not_interrupted(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        cleaned = []
        with pytest.raises(Stopped), Interrupts():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                cleaned.append(True)
        assert cleaned == [True]
        assert signal.getsignal(signal.SIGINT) is before


class TestEnvironment:
    def test_a_connection_string_names_the_server(self) -> None:
        dsn = "host=db.example port=6000 dbname=shop user=web password=x sslmode=require"
        database = database_from({"DBPOOL_ENGINE": "stock", "DBPOOL_TEST_DSN": dsn})
        assert database["ENGINE"] == "django.db.backends.postgresql"
        assert [database[key] for key in ("HOST", "PORT", "NAME", "USER")] == [
            "db.example",
            "6000",
            "shop",
            "web",
        ]
        assert database["OPTIONS"] == {"sslmode": "require", "application_name": APPLICATION_NAME}

    def test_the_same_sizes_for_both_pools(self) -> None:
        sizes = {"DBPOOL_DEMO_POOL": '{"max_size": 8}'}
        assert database_from({**sizes, "DBPOOL_ENGINE": "stock-pool"})["OPTIONS"]["pool"] == {"max_size": 8}
        assert database_from(sizes)["POOL"] == {"max_size": 8}


def test_a_message_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that takes a file while it is written has lost the task."""
    before: list[str] = []
    to_text = folder.dumps

    def dumps(payload: Any) -> str:
        before.extend(path.name for path in (tmp_path / "queue").glob("*.msg"))
        return str(to_text(payload))

    monkeypatch.setattr(folder, "dumps", dumps)
    Queue(tmp_path).send("nothing", number=7)
    assert before == []
    (message,) = (tmp_path / "queue").iterdir()
    assert message.name.endswith(".celery.msg")
    assert json.loads(message.read_text())["headers"]["task"] == "nothing"
