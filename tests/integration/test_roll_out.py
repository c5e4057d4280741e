"""docs/roll-out.md: the kill switch changes no result, and the page's settings and queries work."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction
from django.db.models import F

from django_dbpool.core.config import PoolConfig
from django_dbpool.transaction import session
from tests.app.models import Item, Log
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import backend, execute, in_use, value

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = (Path(__file__).resolve().parents[2] / "docs/roll-out.md").read_text()
STEPS = [("0", "session"), ("1", "session"), ("1", "transaction")]
FORTH_AND_BACK = [*STEPS, *STEPS[1::-1]]


def sample(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    """The page's settings as they come out under these environment variables."""
    for name in ("DBPOOL_ENABLED", "DBPOOL_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, content in environment.items():
        monkeypatch.setenv(name, content)
    block = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block.group(1), names)
    return names


@pytest.fixture
def shop(make_alias: MakeAlias, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Takes DBPOOL_ENABLED and DBPOOL_MODE to one alias, as a restart would; gives the alias."""
    there = connections["default"].settings_dict
    alias = make_alias()

    def restart(enabled: str, mode: str) -> str:
        entry = sample(monkeypatch, DBPOOL_ENABLED=enabled, DBPOOL_MODE=mode)["DATABASES"]["default"]
        server = {key: there[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT")}
        connections[alias].close()
        connections[alias].close_pool()
        del connections[alias]
        connections.settings[alias] = {**entry, **server}
        connections.configure_settings(connections.settings)
        return alias

    return restart


def workload(alias: str) -> dict[str, Any]:
    items = Item.objects.using(alias)
    story: dict[str, Any] = {}
    items.all().delete()
    items.bulk_create(Item(pk=n, name=f"item {n}", n=n) for n in range(1, 8))
    items.filter(n__gt=5).update(n=F("n") * 10)
    items.filter(pk=1).delete()
    story["rows"] = list(items.order_by("pk").values_list("pk", "name", "n"))
    story["hooks"] = []
    with transaction.atomic(using=alias):
        items.create(pk=20, name="kept")
        transaction.on_commit(lambda: story["hooks"].append(items.filter(pk=20).exists()), using=alias)
        try:
            with transaction.atomic(using=alias):
                items.create(pk=21, name="undone")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        story["locked"] = [item.pk for item in items.select_for_update().filter(n__gt=50).order_by("pk")]
    story["iterated"] = []
    for item in items.order_by("pk").iterator(chunk_size=2):
        items.filter(pk=item.pk).update(n=1)  # another statement while a server-side cursor is open
        story["iterated"].append(item.pk)
    story["session"] = []
    for tenant in (1, 2):
        with session(alias, **{"app.tenant": tenant, "statement_timeout": "7s"}):
            story["session"].append(
                execute(alias, "SELECT current_setting('app.tenant'), current_setting('statement_timeout')")
            )
            with transaction.atomic(using=alias):
                story["session"].append(value(alias, "SELECT current_setting('app.tenant')"))
    story["after"] = (
        value(alias, "SELECT current_setting('app.tenant', true)") or "",
        value(alias, "SHOW statement_timeout"),
    )
    story["copied"] = execute(alias, "SET work_mem = '5MB'") + execute(alias, "SHOW work_mem")  # pins
    connections[alias].close()
    Log.objects.using(alias).create(key=alias)
    story["end"] = list(items.order_by("pk").values_list("pk", "n"))
    return story


EXPECTED = {
    "hooks": [True],
    "locked": [6, 7],
    "iterated": [2, 3, 4, 5, 6, 7, 20],
    "session": [[("1", "7s")], "1", [("2", "7s")], "2"],
    "after": ("", "0"),
    "copied": [("5MB",)],
    "end": [(pk, 1) for pk in (2, 3, 4, 5, 6, 7, 20)],
}


def test_the_switch_changes_no_result(shop: Callable[[str, str], str]) -> None:
    """Off, session, transaction, and back again to off, in one project."""
    stories = []
    for enabled, mode in FORTH_AND_BACK:
        alias = shop(enabled, mode)
        stories.append(workload(alias))
        pool = connections[alias].pool
        assert (pool is None) == (enabled == "0")
        assert pool is None or pool.config.mode == mode
        connections[alias].close()
        assert pool is None or in_use(alias) == 0
    assert all(story == stories[0] for story in stories)
    assert stories[0] | EXPECTED == stories[0]


@pytest.mark.parametrize(("enabled", "mode"), STEPS)
def test_when_a_connection_is_held(shop: Callable[[str, str], str], enabled: str, mode: str) -> None:
    """Off and in session mode the unit of work keeps its connection, in transaction mode a statement does."""
    alias = shop(enabled, mode)
    first = backend(alias)
    if enabled == "1":
        assert in_use(alias) == (1 if mode == "session" else 0)
    else:
        assert connections[alias].connection is not None
        assert backend(alias) == first
    connections[alias].close()


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for enabled, mode in STEPS:
        entry = sample(monkeypatch, DBPOOL_ENABLED=enabled, DBPOOL_MODE=mode)["DATABASES"]["default"]
        config = PoolConfig.from_mapping(entry["POOL"])
        assert (config.enabled, config.mode) == (enabled == "1", mode)
        assert (entry["CONN_MAX_AGE"] == 0) == config.enabled
    assert sample(monkeypatch)["DATABASES"]["default"]["POOL"]["enabled"] is False


@pytest.fixture
def idle_in_transaction(shop: Callable[[str, str], str]) -> Iterator[str]:
    alias = shop("1", "transaction")
    with transaction.atomic(using=alias):
        backend(alias)
        yield alias


def test_queries(idle_in_transaction: str, observer: psycopg.Connection[Any]) -> None:
    """Every query of the page runs, and shows the transaction that the application has open."""
    queries = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    assert len(queries) == 4
    by_state, waiting, limit, opened = (query.replace("interval '1 second'", "interval '0'") for query in queries)
    assert ("shop-web", "idle in transaction", 1) in observer.execute(by_state).fetchall()
    rows = observer.execute(waiting).fetchall()
    assert [row[1] for row in rows] == ["shop-web"]
    assert "pg_backend_pid" in rows[0][4]
    ((used, usable),) = observer.execute(limit).fetchall()
    assert 2 <= used < usable
    assert len(observer.execute(opened).fetchall()) == 1


def test_log_lines(shop: Callable[[str, str], str], caplog: pytest.LogCaptureFixture) -> None:
    """Each line of the table is one that the code can write, at that level."""
    source = Path(PoolConfig.__module__.replace(".", "/")).parent.parent
    root = Path(__file__).resolve().parents[2] / source
    calls = re.findall(
        r"logger\.(debug|info|warning|error|log)\(\s*(?:[^\",()]+,)?\s*\"((?:[^\"\\]|\\.)*)\"",
        "\n".join(path.read_text() for path in root.rglob("*.py")),
    )
    known = [(re.sub(r"%(?:[srd]|\.\df)", "\0", text), level.upper()) for level, text in calls]
    lines = re.findall(r"^\| `([^`]+ [^`]+)` \| (DEBUG|INFO|WARNING|by its .*?) \|", PAGE, re.MULTILINE)
    assert len(lines) == 16
    for line, level in lines:
        start = line.removesuffix("...")
        patterns = [re.escape(text).replace("\0", ".*?") for text, at in known if at in (level, "LOG")]
        assert any(re.match(pattern, start) or re.match(_up_to(pattern, start), start) for pattern in patterns), line

    alias = shop("1", "transaction")
    with caplog.at_level(logging.DEBUG, "django_dbpool"):
        execute(alias, "SET work_mem = '5MB'")
    assert f"database {alias!r}: connection pinned: SET" in caplog.text
    connections[alias].close()


def _up_to(pattern: str, start: str) -> str:
    """A line of the page may end in the middle of the text: ``forked inside a transaction; ...``."""
    return pattern[: pattern.index(";") + 1] if ";" in pattern and start.endswith("; ") else pattern
