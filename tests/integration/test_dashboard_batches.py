"""The pages about runs of batches, and what is done from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from django_dbpool import batch, reports
from django_dbpool.acting import batches as acting_batches
from django_dbpool.batch import Start
from django_dbpool.models import BatchCheckpoint, BatchFailure, BatchRun
from django_dbpool.reports import batch_rows
from testproject.postgres import free_port
from tests.fixtures.batches import ago, begin, kill
from tests.fixtures.dashboard import client_of, site, url
from tests.integration.test_dashboard_pages import EVIL, Page

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

JOB = reports.key_of_batch("default", "job")


@pytest.fixture(autouse=True)
def pages() -> Iterator[None]:
    with site(FLEET=None):
        yield


@pytest.fixture
def operator() -> Client:
    return client_of("operator")


def get(client: Client, page: str = "batches", status: int = 200, /, **query: str) -> Page:
    answer = client.get(url(page, **query))
    assert answer.status_code == status
    return Page(answer)


def of_run(client: Client, name: str = "job", **query: str) -> Page:
    return get(client, "batch", alias="default", name=name, **query)


def shown(page: Page) -> list[str | None]:
    return [given["data-batch"] for tag, given in page.tags if tag == "tr" and "data-batch" in given]


def actions(page: Page) -> list[str | None]:
    return [given["data-action"] for _, given in page.tags if "data-action" in given]


# -- what is shown --------------------------------------------------------------------------------------------------


def test_runs(operator: Client) -> None:
    assert "No run of batches is remembered" in get(operator).text
    kill(begin("job", task="shop.tasks.send"), seconds=5)
    page = get(operator)
    assert shown(page) == ["job"]
    assert "shop.tasks.send" in page.text
    assert "elsewhere:7" in page.text
    assert "heard of 5" in page.text
    (bar,) = [given for tag, given in page.tags if tag == "progress"]
    assert (bar["value"], bar["max"]) == ("50", "100")
    assert "10 / 20" in page.text
    assert page.having(data_state="running")
    assert page.having(href=url("batch", alias="default", name="job"))
    assert actions(page) == ["pause", "cancel"]


@pytest.mark.parametrize(
    ("fields", "wanted", "state", "offered"),
    [
        ({"token": "x"}, "run", "dead", ["pause", "resume", "cancel"]),
        ({"reason": "failed: ValueError"}, "run", "failed", ["pause", "resume", "cancel"]),
        ({"token": "x", "restarts": 6, "restarted_with": 1}, "run", "given up", ["pause", "resume", "cancel"]),
        ({"reason": "paused"}, "pause", "paused", ["resume", "cancel"]),
        ({"reason": "stopped"}, "run", "stopped", ["pause", "resume", "cancel"]),
        ({}, "run", "waiting", ["pause", "cancel"]),
    ],
)
def test_state_and_what_can_be_done(
    fields: dict[str, Any], wanted: str, state: str, offered: list[str], operator: Client
) -> None:
    rows = begin("job", task="shop.tasks.send")
    rows.update(**{"reason": "", **fields})
    ago(rows, heartbeat=61)
    BatchRun.objects.update(wanted=wanted)
    for page in (get(operator), of_run(operator)):
        assert page.having(data_state=state)
        assert actions(page) == offered
    BatchRun.objects.update(state="done")
    assert actions(get(operator)) == actions(of_run(operator)) == []


def test_filters_and_pages_are_the_servers(operator: Client) -> None:
    for number in range(30):
        BatchRun.objects.create(name=f"nightly {number:02}", model="app.Item", key="id", state="done")
    kill(begin("job", task="shop.tasks.send"))
    BatchRun.objects.using("other").create(name="elsewhere", model="app.Item", key="id")
    page = get(operator)
    assert shown(page)[:3] == ["elsewhere", "job", "nightly 29"]
    assert "1 to 25 of 32" in page.text
    (following,) = page.having(rel="next")
    assert "26 to 32 of 32" in Page(operator.get(url("batches") + str(following["href"]))).text
    assert "26 to 32 of 32" in get(operator, page="99").text
    assert shown(get(operator, q="SHOP send")) == ["job"]
    assert shown(get(operator, alias="other")) == ["elsewhere"]
    assert shown(get(operator, state="trouble")) == ["job"]
    assert shown(get(operator, state="open")) == ["elsewhere", "job"]
    assert len(shown(get(operator, state="done", q="nightly 1"))) == 12
    assert shown(get(operator, q="nothing")) == []


def test_one_run_with_parts_and_failed_items(operator: Client) -> None:
    rows = begin("job", task="shop.tasks.send")
    run = BatchRun.objects.get()
    BatchRun.objects.update(parts=2)
    BatchCheckpoint.objects.create(run=run, part=1, token="x", runner="web-1 4711 abc", restarts=2, done=1234)
    rows.filter(part=0).update(reason="failed: ValueError")
    for number in range(30):
        BatchFailure.objects.create(
            run=run, key=[number], skipped=number > 0, error_type="builtins.ValueError", error=f"no {number}", times=3
        )
    page = of_run(operator)
    assert [given["data-part"] for _, given in page.tags if "data-part" in given] == ["0", "1"]
    assert "web-1:4711" in page.text
    assert "sent again 2 times" in page.text
    assert "failed: ValueError" in page.text
    assert "1 to 25 of 30" in page.text
    assert "tried 3 times" in page.text
    last = of_run(operator, page="2")
    assert [given["data-item"] for _, given in last.tags if "data-item" in given] == ["4", "3", "2", "1", "0"]
    assert "ended the run" in last.text
    (hidden,) = page.having(type="hidden", name="run")
    found = get(operator, "batch", run=str(hidden["value"]), q="valueerror 17")
    assert [given["data-item"] for _, given in found.tags if "data-item" in given] == ["17"]
    listed = get(operator)
    assert "1 of 2 parts" in listed.text
    assert listed.having(href=url("batch", alias="default", name="job") + "#dbpool-failed")


def test_run_that_is_not_there(operator: Client) -> None:
    odd = ({"name": "a\0b" * 300, "alias": "default"}, {"run": r'["default", "\ud800"]'})
    for query in ({}, {"name": "job"}, {"name": "job", "alias": "nowhere"}, *odd):
        page = get(operator, "batch", 404, **query)
        assert "There is no such run" in page.text


def test_pages_are_sound(operator: Client) -> None:
    """As the others are: headings, captions, keys for the live script, nothing inline."""
    kill(begin("job", task="shop.tasks.send"))
    BatchFailure.objects.create(run=BatchRun.objects.get(), key=["x", 1], skipped=True, error_type="E", error="e")
    for page in (get(operator), of_run(operator)):
        names = [tag for tag, _ in page.tags]
        assert names.count("h1") == 1
        assert names.count("table") == names.count("caption")
        assert all(given.get("scope") in ("row", "col") for tag, given in page.tags if tag == "th")
        assert not [key for key, count in page.keys.items() if count > 1]
        assert not any(name == "style" or name.startswith("on") for _, given in page.tags for name in given)
        assert all(given.get("type") in ("submit", "button") for tag, given in page.ours if tag == "button")
        assert any("data-live" in given for _, given in page.tags)
        assert page.open == []
    current = [given for tag, given in of_run(operator).tags if tag == "a" and given.get("aria-current") == "true"]
    assert [given["href"] for given in current] == [url("batches")]


def test_hostile_names_are_only_text(operator: Client) -> None:
    name = EVIL
    begin("job", task=EVIL)
    BatchRun.objects.update(name=name)
    rows = BatchCheckpoint.objects.all()
    rows.update(runner=EVIL, reason=EVIL, last_key=[EVIL])
    BatchFailure.objects.create(
        run=BatchRun.objects.get(), key=[EVIL], skipped=True, error_type=EVIL, error=EVIL, place=EVIL
    )
    key = reports.key_of_batch("default", name)
    for answer in (
        operator.get(url("batches")),
        operator.get(url("batches", q="script")),
        operator.get(url("batch", alias="default", name=name)),
        operator.post(url("batch_action"), {"cancel": key}),
    ):
        content = answer.content.decode()
        assert "&lt;script&gt;alert" in content
        assert "<script>alert" not in content and "<img" not in content
        assert not any(character in content for character in "\u202e\x1b")
        assert Page(answer).open == []
    assert operator.post(url("batch_action"), {"cancel": key, "confirmed": "yes"}).status_code == 302
    assert batch.status(name).state == "cancelled"


def test_few_queries(operator: Client) -> None:
    """However many runs there are: to list them, their parts and what failed, of each database."""
    for number in range(20):
        BatchRun.objects.create(name=f"nightly {number:02}", model="app.Item", key="id", state="done")
    with CaptureQueriesContext(connections["default"]) as queries:
        get(operator)
    told = [query["sql"] for query in queries.captured_queries if "batch" in query["sql"]]
    assert len(told) == 4, told
    assert not [sql for sql in told if "FOR UPDATE" in sql]


def test_database_with_two_names_is_listed_once(operator: Client, make_pool: Callable[..., str]) -> None:
    """Under the first one; under the other one for who asks for that."""
    again = make_pool(HOST="localhost")
    kill(begin("job"))
    assert shown(get(operator)) == shown(get(operator, state="trouble")) == ["job"]
    assert reports.batches().rows.total == 1
    assert shown(get(operator, alias=again)) == ["job"]


def test_far_pages_read_little(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the keys of all runs, whatever number stands in the address."""
    monkeypatch.setattr(batch_rows, "DEEPEST", 50)
    for number in range(60):
        BatchRun.objects.create(name=f"nightly {number:02}", model="app.Item", key="id", state="done")
    with CaptureQueriesContext(connections["default"]) as queries:
        page = get(operator, page="99999999")
    assert not [query["sql"] for query in queries.captured_queries if "LIMIT 2499999975" in query["sql"]]
    assert [query for query in queries.captured_queries if "LIMIT 50" in query["sql"]]
    assert (shown(page)[0], "26 to 50 of 60" in page.text) == ("nightly 34", True)
    assert not page.having(rel="next")
    assert shown(get(operator, q="nightly 03")) == ["nightly 03"]


# -- what can't be asked --------------------------------------------------------------------------------------------


def test_database_that_is_away_is_told(operator: Client, make_pool: Callable[..., str]) -> None:
    away = make_pool(PORT=str(free_port()), POOL={"timeout": 1, "retry": False})
    kill(begin("job"))
    page = get(operator)
    assert shown(page) == ["job"], "the others are shown all the same"
    assert f"Database '{away}' can't be asked for its batch runs" in page.text
    page = get(operator, alias=away)
    assert "can't be asked" in page.text and "No run of batches" not in page.text
    page = get(operator, "batch", alias=away, name="job")
    assert "can't be asked" in page.text and "There is no such run" not in page.text
    answer = operator.post(url("batch_action"), {"cancel": reports.key_of_batch(away, "job"), "confirmed": "yes"})
    (told,) = operator.get(answer["Location"]).context["messages"]
    assert "can't be asked" in str(told)


def test_database_without_tables(operator: Client, make_pool: Callable[..., str]) -> None:
    bare = make_pool(NAME="postgres")
    assert "migrate" not in get(operator).text, "others have them"
    assert f"manage.py migrate django_dbpool --database={bare}" in get(operator, alias=bare).text
    acted = acting_batches.control("pause", "job", bare, actor="test")
    assert (acted.outcome, "has no tables" in acted.text) == ("failed", True), "it is known that nothing was done"


# -- what is done ---------------------------------------------------------------------------------------------------


def ask(client: Client, verb: str, key: str = JOB, **more: str) -> Any:
    return client.post(url("batch_action"), {verb: key, **more})


def confirmed(client: Client, verb: str, key: str = JOB, **more: str) -> str:
    """What the page says afterwards."""
    answer = ask(client, verb, key, confirmed="yes", **more)
    assert answer.status_code == 302, answer.content.decode()
    (told,) = client.get(answer["Location"]).context["messages"]
    return str(told)


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_it_is_asked_first(verb: str, operator: Client) -> None:
    begin("job", task="shop.tasks.send")
    answer = ask(operator, verb, back="state=open")
    page = Page(answer)
    assert page.having(data_page="batch_confirm")
    assert "shop.tasks.send" in page.text and "10 / 20" in page.text
    assert page.having(href=f"{url('batches')}?state=open")
    assert (batch.status("job").wanted, batch.status("job").state) == ("run", "open")
    assert not LogEntry.objects.exists()
    (back,) = [
        given
        for given in Page(ask(operator, verb, page="batch", back="name=job")).having()
        if given.get("href") == f"{url('batch')}?name=job"
    ]
    assert back


def test_pause_resume_cancel(operator: Client, sent: list[Start]) -> None:
    rows = begin("job", task="tests.count")
    kill(rows, seconds=5)
    assert confirmed(operator, "pause") == "job: Done. It stops when the batch at hand is done."
    assert batch.status("job").wanted == "pause"
    rows.update(token="", reason="paused")
    assert "Its task is sent again" in confirmed(operator, "resume")
    assert [start.name for start in sent] == ["job"]
    assert confirmed(operator, "cancel").startswith("job: Done.")
    assert batch.status("job").state == "cancelled"
    assert "already over" in confirmed(operator, "pause")
    entries = [entry.change_message for entry in LogEntry.objects.order_by("pk")]
    assert entries[0] == "pause: batch run job, running, 10 of 20 done, database default"
    assert len(entries) == 4
    assert client_of("superuser").get("/admin/").status_code == 200  # which lists them


def test_log_comes_before_the_act_and_names_the_actor(
    operator: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("job")
    seen: list[tuple[str, int]] = []

    def pause(name: str, using: str) -> Any:
        seen.append((caplog.text, LogEntry.objects.count()))
        return batch.pause(name, using)

    monkeypatch.setitem(acting_batches.VERBS, "pause", pause)
    caplog.set_level(logging.WARNING, "django_dbpool.commands")
    confirmed(operator, "pause")
    ((text, entries),) = seen
    assert "pause of batch run 'job' on database 'default', asked for by operator" in text
    assert entries == 1


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"pause": JOB, "cancel": JOB},
        {"pause": "job"},
        {"pause": "[1, 2]"},
        {"dance": JOB},
        {"pause": "[" * 9000},
        {"pause": r'["default", "\ud800"]'},
    ],
    ids=["nothing", "two", "no key", "numbers", "no verb", "deep", "half a character"],
)
def test_what_is_no_action(data: dict[str, str], operator: Client) -> None:
    answer = operator.post(url("batch_action"), {**data, "confirmed": "yes"})
    assert answer.status_code == 400
    assert answer["Content-Type"].startswith("text/plain")


def test_run_that_is_gone(operator: Client) -> None:
    assert "no such run any more" in confirmed(operator, "pause")
    assert not LogEntry.objects.exists()


def test_never_to_another_site(operator: Client) -> None:
    begin("job")
    for back in ("https://evil.example/", "//evil.example", "x=\r\nSet-Cookie: a"):
        answer = ask(operator, "pause", confirmed="yes", back=back, page="https://evil.example")
        assert answer["Location"].startswith(url("batches"))


def test_who_may_only_look_is_offered_nothing() -> None:
    begin("job")
    viewer = client_of("viewer")
    assert actions(get(viewer)) == actions(of_run(viewer)) == []
    assert ask(viewer, "cancel", confirmed="yes").status_code == 403
    assert batch.status("job").state == "open"


def test_form_needs_its_token() -> None:
    begin("job")
    client = client_of("superuser", csrf=True)
    assert ask(client, "cancel", confirmed="yes").status_code == 403
    token = client.get(url("batches")).context["csrf_token"]
    assert ask(client, "cancel", confirmed="yes", csrfmiddlewaretoken=str(token)).status_code == 302
    assert batch.status("job").state == "cancelled"


def test_language_of_the_reader(operator: Client) -> None:
    kill(begin("job"))
    answer = operator.get(url("batches"), headers={"Accept-Language": "de"})
    assert "Bearbeiter ist tot" in answer.content.decode()
