"""`manage.py dbpool batches`: looking at runs, and telling them what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.test import override_settings

from django_dbpool import batch
from django_dbpool.batch import Start
from django_dbpool.models import BatchFailure, BatchRun
from testproject.postgres import free_port
from tests.fixtures.batches import ago, begin, kill
from tests.fixtures.command_line import Run, run_dbpool

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(run_dbpool, capsys, "batches", "--no-color")


def load(result: tuple[int, str, str]) -> Any:
    assert result[2] == ""
    return json.loads(result[1])


def test_list(run: Run) -> None:
    assert run("--using", "default") == (0, "No run is open.\n", "")
    kill(begin("first", task="tests.count"), seconds=5)
    begin("second")
    BatchRun.objects.filter(name="second").update(state="done")
    code, out, err = run("--using", "default")
    assert (code, err) == (0, "")
    heads, row = out.splitlines()
    assert heads.split("  ")[0] == "run"
    assert row.split()[:5] == ["first", "running", "10", "of", "20"]
    assert "(50 %)" in row
    assert "second" in run("--using", "default", "--state", "all")[1]
    document = load(run("--json", "--database", "default"))
    assert [each["name"] for each in document["runs"]] == ["first"]
    assert document["runs"][0]["parts"][0]["runner"] == "elsewhere 7 abc"


def test_trouble_is_told(run: Run) -> None:
    rows = begin("job", task="tests.count")
    kill(rows, seconds=90)
    code, out, _ = run("--using", "default")
    assert code == 1
    assert "job: nothing was heard of its runner (elsewhere 7 abc) for 90 s. `batches resume` sends its task" in out
    rows.update(token="", reason="failed: ValueError")
    assert "its last runner has ended with an error (ValueError)" in run("--using", "default")[1]
    assert run("--state", "trouble", "--using", "default")[0] == 1
    assert run("show", "job")[0] == 1
    BatchRun.objects.update(wanted="pause")
    assert run("--using", "default", "--state", "trouble") == (0, "No run is in trouble.\n", "")


def test_pause_resume_cancel(run: Run, sent: list[Start], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "django_dbpool.commands")
    rows = begin("newsletter 7", task="tests.count")
    kill(rows, seconds=5)
    assert (
        "Would pause 'newsletter 7' in database 'default', which is running."
        in run("pause", "newsletter 7", "--dry-run")[1]
    )
    assert batch.status("newsletter 7").wanted == "run"
    assert run("pause", "newsletter 7") == (
        0,
        "newsletter 7: done. It stops when the batch at hand is done.\n",
        "",
    )
    assert batch.status("newsletter 7").condition == "pausing"
    rows.update(token="", reason="paused")
    code, out, _ = run("resume", "newsletter 7", "--using", "default")
    assert (code, len(sent)) == (0, 1)
    assert "Its task is sent again" in out
    assert run("cancel", "newsletter 7") == (1, "", "Nothing was done. Say --yes to do it.\n")
    assert run("cancel", "newsletter 7", answer="n\n")[0] == 1
    assert batch.status("newsletter 7").state == "open"
    code, out, _ = run("cancel", "newsletter 7", answer="y\n")
    assert out == (
        "Cancel 'newsletter 7', with 10 of 20 (50 %) done, for good? [y/N] newsletter 7: done. "
        "Nobody was at work on it. It has ended.\n"
    )
    assert code == 0
    code, out, _ = run("pause", "newsletter 7")
    assert (code, "has ended (cancelled)" in out) == (1, True)
    assert load(run("cancel", "newsletter 7", "--json"))["outcome"] == "done"
    told = [record.getMessage() for record in caplog.records if record.name == "django_dbpool.commands"]
    assert "pause of batch run 'newsletter 7' on database 'default', asked for by " in told[0]
    assert "manage.py dbpool batches" in told[0]


def test_show_and_failures(run: Run) -> None:
    begin("job")
    assert run("failures", "job") == (0, "No item has failed.\n", "")
    found = BatchRun.objects.get()
    for number in range(3):
        BatchFailure.objects.create(
            run=found,
            key=[number],
            skipped=True,
            error_type="builtins.ValueError",
            error="odd\nline",
            place="a.py:3 in f",
        )
    code, out, _ = run("failures", "job", "--limit", "2")
    assert code == 0
    assert out.splitlines()[1].split("  ")[-2:] == ["ValueError: odd\\nline", "a.py:3 in f"]
    assert out.splitlines()[-1] == "and 1 more"
    assert load(run("failures", "job", "--json"))["total"] == 3
    code, out, _ = run("show", "job")
    assert code == 0
    assert "model app.Item, wanted: run" in out
    assert out.splitlines()[-1].split()[:2] == ["0", "stopped"]
    assert load(run("show", "job", "--json"))["parts"][0]["last_key"] is not None


def test_delete_old(run: Run) -> None:
    begin("old")
    BatchRun.objects.update(state="done")
    ago(BatchRun.objects.all(), ended=31 * 86400)
    code, out, _ = run("delete-old", "--dry-run", "--using", "default")
    assert (code, out) == (0, "Database 'default': 1 run ended more than 30 days ago.\n")
    assert run("delete-old", "--using", "default")[0] == 1
    assert BatchRun.objects.count() == 1
    assert run("delete-old", "--days", "40", "--yes")[0] == 0
    assert BatchRun.objects.count() == 1
    assert run(
        "delete-old",
        answer="y\n",
    )[1].endswith("1 run forgotten.\n")
    assert BatchRun.objects.count() == 0
    with override_settings(DBPOOL={"BATCH_RETENTION": None}):
        assert run("delete-old")[0] == 2


def test_reap(run: Run, sent: list[Start]) -> None:
    kill(begin("job", task="tests.count"))
    assert run("reap", "--using", "default") == (0, "sent again: job (database 'default')\n", "")
    assert run("reap")[1] == "Nothing had to be sent again, or this process doesn't know how.\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["pause"], 2, "needs the name of a run"),
        (["list", "job"], 2, "take a name"),
        (["pause", "nothing"], 1, "There is no batch run 'nothing'"),
        (["--using", "nowhere"], 2, "no PostgreSQL database is called 'nowhere'"),
        (["dance"], 2, "invalid choice"),
        (["delete-old", "--days", "0"], 2, "not a whole number from 1"),
        (["--yes", "--dry-run"], 2, "not allowed with"),
    ],
)
def test_wrong_usage(run: Run, words: list[str], code: int, text: str) -> None:
    found, out, err = run(*words)
    assert (found, out) == (code, "")
    assert text in err


def test_name_that_two_databases_know(run: Run) -> None:
    begin("job")
    BatchRun.objects.using("other").create(name="job", model="app.Item", key="id")
    assert run("pause", "job") == (2, "", "Several databases have a run 'job': default, other. Say --using.\n")
    assert run("pause", "job", "--using", "other")[0] == 0
    assert batch.status("job").wanted == "run"


def test_database_with_two_names(run: Run, make_pool: Callable[..., str]) -> None:
    """It is one all the same, and its runs are not those of two databases."""
    make_pool(HOST="localhost")
    begin("job")
    code, out, _ = run()
    assert (code, out.count("job")) == (0, 1)
    assert run("pause", "job")[0] == 0
    BatchRun.objects.update(state="done")
    ago(BatchRun.objects.all(), ended=31 * 86400)
    code, out, _ = run("delete-old", "--yes")
    assert (code, out.count("1 run ended"), out.endswith("1 run forgotten.\n")) == (0, 1, True)


def test_database_that_is_away(run: Run, make_pool: Callable[..., str]) -> None:
    away = make_pool(PORT=str(free_port()), POOL={"timeout": 1, "retry": False})
    code, out, err = run("--using", away)
    assert (code, out) == (2, "")
    assert f"Database '{away}' can't be asked for its batch runs" in err
    begin("job")
    code, out, err = run()
    assert (code, "job" in out) == (2, True), "the others are shown all the same"
    assert f"Database '{away}' can't be asked" in err
    assert run("pause", "job")[0] == 0
    assert run("delete-old", "--using", away)[0] == 2


def test_database_without_tables(run: Run, make_pool: Callable[..., str]) -> None:
    bare = make_pool(NAME="postgres")
    code, out, err = run("--using", bare)
    assert (code, out) == (2, "")
    assert f"migrate django_dbpool --database={bare}" in err
    assert run() == (0, "No run is open.\n", ""), "where others have them it is as it should be"
