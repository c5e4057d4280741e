"""What is on the dashboard's pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from django.db import connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from django_dbpool import reports
from django_dbpool.reports import StrangerRow
from tests.fixtures.api import HOLDER, POOL, hostile, publish
from tests.fixtures.dashboard import PAGES, client_of, site, url

pytestmark = pytest.mark.django_db(databases=["default", "other"])

OF_FLEET = [page for page in PAGES if page != "batches"]
"""What shows what processes have published."""

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7|add:7 }}{% now %}\u202e\x1b[31m&amp;"


class Page(HTMLParser):
    """Its elements with their attributes, in order, and the text by the element around it."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "hr", "path", "rect", "circle"})

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ours: list[tuple[str, dict[str, str | None]]] = []
        """Those that are not the admin's."""
        self.keys: Counter[tuple[int, str]] = Counter()
        """What the live script tells rows by, with the element that they are in."""
        self.text = ""
        self.open: list[tuple[str, int]] = []
        self.feed(answer.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute is there twice: {tag} {attrs}"
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append((tag, len(self.tags)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if self.ours or given.get("id") == "dbpool":
            self.ours.append((tag, given))
        if key := given.get("data-key"):
            self.keys[self.open[-1][1], key] += 1

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, **wanted: str) -> list[dict[str, str | None]]:
        names = {name.replace("_", "-"): value for name, value in wanted.items()}
        return [given for _, given in self.tags if all(given.get(name) == value for name, value in names.items())]


@pytest.fixture(autouse=True)
def pages() -> Iterator[None]:
    with site():
        yield


@pytest.fixture
def operator() -> Client:
    return client_of("operator")


def get(client: Client, page: str = "changelist", /, **query: str) -> Page:
    answer = client.get(url(page, **query))
    assert answer.status_code == 200
    return Page(answer)


def value(client: Client, name: str) -> str:
    """A number of the overview, as it is shown."""
    content = client.get(url()).content.decode()
    found = re.search(rf'data-value="{name}">([^<]*)<', content)
    assert found is not None
    return found[1]


# -- every page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("published", [True, False], ids=["something", "nothing"])
def test_page_is_one_that_everybody_can_use(page: str, published: bool, operator: Client) -> None:
    """Headings, captions, labels, unique ids; nothing inline and nothing from elsewhere."""
    if published:
        publish()
    found = get(operator, page)
    names = [tag for tag, _ in found.tags]
    assert found.open == []
    assert names.count("h1") == names.count("main") == 1
    ids = [given["id"] for _, given in found.tags if "id" in given]
    assert len(ids) == len(set(ids))
    assert not [key for key, count in found.keys.items() if count > 1]
    assert names.count("table") == names.count("caption")
    assert all(given.get("scope") in ("row", "col") for tag, given in found.tags if tag == "th")
    assert all("aria-label" in given or given.get("role") != "img" for tag, given in found.tags if tag == "svg")
    for _, given in found.tags:
        assert not any(name == "style" or name.startswith("on") for name in given), given
        for name in ("href", "src", "action"):
            assert not str(given.get(name) or "").startswith(("http", "//", "javascript:", "data:")), given
        for name in ("aria-labelledby", "aria-describedby"):
            assert given.get(name) is None or given[name] in ids
    assert "style" not in names
    assert all(given.get("src") for tag, given in found.tags if tag == "script")
    assert all(given.get("type") in ("submit", "button") for tag, given in found.ours if tag == "button")


@pytest.mark.parametrize("page", PAGES)
def test_tabs_say_where_one_is(page: str, operator: Client) -> None:
    found = get(operator, page)
    current = [given["href"] for tag, given in found.tags if tag == "a" and given.get("aria-current") == "page"]
    assert current[-1] == url(page)
    assert found.having(data_page="overview" if page == "changelist" else page)


@pytest.mark.parametrize("page", OF_FLEET)
def test_hostile_names_are_only_text(page: str, operator: Client) -> None:
    """SQL, routes, tasks, operations, threads, tags, hosts: whoever names them may have chosen them with care."""
    publish(**{**hostile(EVIL), "instance": "c" * 16})
    for query in ({}, {"q": "script"}, {"servers": "1"}, {"process": EVIL, "state": EVIL, "alias": EVIL, "q": EVIL}):
        answer = operator.get(url(page, **query))
        content = answer.content.decode()
        assert "<script>alert" not in content
        assert "<img" not in content
        assert not any(character in content for character in "\u202e\x1b")
        found = Page(answer)
        assert not any(name.startswith("on") for _, given in found.tags for name in given)
        assert found.open == []
    publish()
    assert "&lt;script&gt;alert" in operator.get(url(page)).content.decode() or page in ("advice", "changelist")


@pytest.mark.parametrize("page", PAGES)
def test_hostile_addresses_are_no_errors(page: str, operator: Client) -> None:
    publish()
    for query in (
        {"page": "-1"},
        {"page": "9" * 50},
        {"page": "²"},
        {"page": "x", "sort": "'; DROP", "state": "\0", "role": "\ud83d"},
        {"q": "a" * 5000, "recent": "0", "repeated": "-9", "over": "1e9"},
    ):
        clean = {name: text.encode(errors="replace").decode() for name, text in query.items()}
        assert operator.get(url(page, **clean)).status_code == 200


# -- queries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", OF_FLEET)
def test_numbers_need_one_query(page: str) -> None:
    """Log-in: session and user, and for those who are no superuser their permissions. Then the fleet's table."""
    for role, log_in in (("superuser", 2), ("operator", 4)):
        client = client_of(role)
        for number in range(3):
            publish(f"{number}{role[0]}".ljust(16, "0"))
            with CaptureQueriesContext(connections["default"]) as queries:
                get(client, page)
            # The test's own transaction makes savepoints of transactions.
            told = [query["sql"] for query in queries.captured_queries if "SAVEPOINT" not in query["sql"]]
            assert len(told) == log_in + 1, told
            assert sum("django_dbpool_process" in sql for sql in told) == 1


def test_servers_are_asked_for_who_wants_it(operator: Client) -> None:
    publish()
    with CaptureQueriesContext(connections["default"]) as queries:
        page = get(operator, "holders", servers="1")
    assert sum("pg_stat_activity" in query["sql"] for query in queries.captured_queries) == 1
    assert "the server has no such session" in page.text


def test_strangers_need_a_permission(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    row = StrangerRow("default", 4711, "nightly-export", "idle", 1.0, None, 60.0, None)
    monkeypatch.setattr(reports, "strangers", lambda fleet: (row,))
    for client, permitted in ((operator, False), (client_of("superuser"), True)):
        answer = client.get(url("holders", servers="1"))
        assert bool(answer.context["strangers"]) is permitted
        assert ("nightly-export" in answer.content.decode()) is permitted
        assert ("You lack the permission" in answer.content.decode()) is not permitted


# -- what is shown --------------------------------------------------------------------------------------------------


def test_overview_says_what_is_wrong_and_what_to_do(operator: Client) -> None:
    publish()
    page = get(operator)
    assert page.having(data_status="unhealthy")
    assert "Something is wrong" in page.text
    assert "Callers wait for a connection" in page.text
    assert "manage.py dbpool terminate" in page.text
    assert page.having(href=url("holders", alias="default", process="web-1:7"))


def test_overview_names_who_it_is_with_one_button_for_all_of_them(operator: Client) -> None:
    """Not who runs a statement: it may be waiting for a lock itself, for which others are to blame."""
    waiting = [
        {**HOLDER, "backend_pid": number, "state": "idle in transaction", "pinned": None, "since_seconds": 62.5}
        for number in (11, 12)
    ]
    running = {**HOLDER, "backend_pid": 13, "state": "running", "pinned": None, "name": "other/"}
    young = {**waiting[0], "backend_pid": 14, "since_seconds": 0.5}
    at_work = {**waiting[0], "backend_pid": 15, "state": "running"}
    # Where nobody waits ten seconds are long, which a busy machine does not need for the rest of this test.
    publish(holders=[*waiting, running, young, at_work], pools=[{**POOL, "waiting": 0}])
    page = get(operator)
    assert "Who it is" in page.text
    assert page.having(data_action="terminate-culprit")
    assert "End all 2…" in page.text
    keys = [element["value"] for element in page.having(type="hidden", name="selected")]
    assert [reports.target_of(str(key))[2] for key in keys] == [11, 12]


def test_overview_does_not_name_who_runs_a_statement(operator: Client) -> None:
    publish(holders=[{**HOLDER, "state": "running", "pinned": None}])
    assert "Who it is" not in get(operator).text


def test_overview_says_that_all_is_well(operator: Client) -> None:
    pool = {**POOL, "waiting": 0, "in_use": 1, "measures": {}}
    publish(pools=[pool], holders=[], sections={}, missed=None, holders_left_out=0)
    page = get(operator)
    assert page.having(data_status="healthy")
    assert "All is well" in page.text
    assert "What is wrong" not in page.text


def test_overview_adds_processes_up(operator: Client) -> None:
    publish("1" * 16)
    publish("2" * 16, pid=8)
    values = {name: value(operator, name) for name in ("active", "idle", "waiting", "max", "total", "reserve")}
    assert values == {"active": "4", "idle": "2", "waiting": "2", "max": "8", "total": "6", "reserve": "2"}
    assert value(operator, "server_connections") == "40"
    assert "2 processes on 1 host: 2 web" in get(operator).text


def test_holders_are_filtered_and_sorted_on_the_server(operator: Client) -> None:
    def holder(number: int, **changes: Any) -> dict[str, Any]:
        return {**HOLDER, "backend_pid": number, "unit": f"GET /{number}/", "since_seconds": number, **changes}

    publish(holders=[holder(1), holder(2, state="running"), holder(3, pinned=None)])
    publish("b" * 16, pid=8, holders=[holder(4, sql="DELETE FROM shop")])

    def shown(**query: str) -> list[str | None]:
        page = get(operator, "holders", **query)
        return [given["data-backend-pid"] for tag, given in page.tags if tag == "tr" and "data-backend-pid" in given]

    assert shown() == ["4", "3", "2", "1"]
    assert shown(state="running") == ["2"]
    assert shown(state="pinned", process="web-1:7") == ["2", "1"]
    assert shown(q="delete shop") == ["4"]
    assert shown(process="web-1:8") == ["4"]
    assert shown(sort="who") == ["1", "2", "3", "4"]
    assert shown(alias="elsewhere") == []


def test_lists_are_paged(operator: Client) -> None:
    for number in range(3):
        holders = [{**HOLDER, "backend_pid": 100 * number + each, "generation": each} for each in range(50)]
        publish(f"{number}" * 16, pid=number + 1, holders=holders)
    first = get(operator, "holders", q="a")
    assert len([given for tag, given in first.tags if tag == "tr" and "data-key" in given]) == 100
    assert "1 to 100 of 150" in first.text
    (following,) = first.having(rel="next")
    second = Page(operator.get(url("holders") + str(following["href"])))
    assert "101 to 150 of 150" in second.text
    assert second.having(rel="prev", href="?q=a&page=1")
    assert "101 to 150 of 150" in get(operator, "holders", page="99").text


def test_operations_show_progress(operator: Client) -> None:
    publish()
    page = get(operator, "operations")
    bars = [given for tag, given in page.tags if tag == "progress"]
    assert bars == [{"value": "30", "max": "100", "aria-label": "import"}] * 2
    assert "0.5 per second" in page.text
    assert "ValueError" in page.text


def test_statements_and_alerts(operator: Client) -> None:
    publish()
    page = get(operator, "statements")
    assert "SELECT pg_sleep(%s)" in page.text
    assert "a.py:3 in f" in page.text
    page = get(operator, "alerts")
    assert "95 % in use" in page.text
    assert page.having(data_severity="critical")


def test_advice_has_settings_to_copy(operator: Client) -> None:
    page = get(operator, "advice")
    assert 'DATABASES["default"]["POOL"]' in page.text
    assert any("data-paste" in given for _, given in page.tags)


def test_parts_of_the_live_script_are_where_it_looks(operator: Client) -> None:
    publish()
    page = get(operator)
    (root,) = [given for _, given in page.tags if "data-live" in given]
    assert (root["id"], root["data-interval"], root["data-stale"]) == ("dbpool", "5.0", "false")
    assert any("data-live-bar" in given for _, given in page.tags)
    assert any("data-live-say" in given for _, given in page.tags)
    for name in ("holders", "processes", "operations", "statements", "alerts"):
        page = get(operator, name)
        assert any("data-live-keep" in given and tag == "form" for tag, given in page.tags)


# -- where numbers come from ----------------------------------------------------------------------------------------


def test_store_that_is_away_is_told(operator: Client) -> None:
    """The page is about the processes of this host, or at least about this one."""
    with (
        site(FLEET={"store": "cache", "cache": "away"}),
        override_settings(
            CACHES={
                "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
                "away": {
                    "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
                    "LOCATION": "/dev/null/away",
                },
            }
        ),
    ):
        for page in OF_FLEET:
            found = get(operator, page)
            assert found.having(data_source="process")
            assert "can't be read: you see only the process that has served this page" in found.text


def test_nothing_published_at_all(operator: Client) -> None:
    with site(FLEET=None):
        assert "you see only the process that has served this page" in get(operator).text


def test_language_of_the_reader() -> None:
    publish()
    client = client_of("operator")
    answer = client.get(url("holders"), headers={"Accept-Language": "de"})
    assert "Wer Verbindungen hält" in answer.content.decode()
