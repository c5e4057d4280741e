"""Code that watches or wraps statements sees the same on this engine as on Django's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import Error, IntegrityError, connections, transaction
from django.db.models import Count, F
from django.test.utils import CaptureQueriesContext, override_settings

from tests.app.models import Item, Log
from tests.fixtures.pools import execute, in_use

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Story = Callable[[str], object]


class NotAdaptable:
    """No driver knows it; it looks the same in every log."""

    def __repr__(self) -> str:
        return "<not adaptable>"


def orm(alias: str) -> object:
    items = Item.objects.using(alias)
    items.bulk_create(Item(pk=n, name=f"item {n}", n=n) for n in range(1, 6))
    items.filter(n=3).update(n=F("n") + 10)
    items.get_or_create(pk=7, defaults={"name": "seven"})
    items.update_or_create(pk=7, defaults={"name": "SEVEN"})
    items.filter(pk=1).delete()
    return [
        list(items.order_by("pk").values_list("pk", "name", "n")),
        items.aggregate(Count("pk")),
        [item.pk for item in items.order_by("pk").iterator(chunk_size=2)],
        items.filter(n=2).exists(),
    ]


def blocks(alias: str) -> object:
    ran = []
    with transaction.atomic(using=alias):
        transaction.on_commit(lambda: ran.append(Log.objects.using(alias).count()), using=alias)
        Log.objects.using(alias).create(pk=1, key="a")
        with suppress(ZeroDivisionError), transaction.atomic(using=alias):
            Log.objects.using(alias).create(pk=2, key="b")
            raise ZeroDivisionError
        with transaction.atomic(using=alias, savepoint=False):
            Log.objects.using(alias).create(pk=3, key="c")
    with suppress(ZeroDivisionError), transaction.atomic(using=alias):
        Log.objects.using(alias).create(pk=4, key="d")
        raise ZeroDivisionError
    with transaction.atomic(using=alias):
        pass
    return ran, sorted(Log.objects.using(alias).values_list("pk", flat=True))


def manual(alias: str) -> object:
    transaction.set_autocommit(False, using=alias)
    Log.objects.using(alias).create(pk=1, key="a")
    transaction.commit(using=alias)
    Log.objects.using(alias).create(pk=2, key="b")
    begin = getattr(transaction, "savepoint_create", None) or transaction.savepoint  # renamed in Django 6.1
    savepoint = begin(using=alias)
    Log.objects.using(alias).create(pk=3, key="c")
    transaction.savepoint_rollback(savepoint, using=alias)
    transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)
    return list(Log.objects.using(alias).values_list("pk", flat=True))


def cursors(alias: str) -> object:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT %s, %s", ["a", 1])
        cursor.execute("SELECT %(a)s", {"a": "b"})
        cursor.execute("SELECT '%'")
        rows = cursor.fetchall()
        cursor.executemany("INSERT INTO app_log (id, key) VALUES (%s, %s)", [(1, "a"), (2, "b")])
        count = cursor.rowcount
        cursor.callproc("upper", ["abc"])
        answer = cursor.fetchone()
        with cursor.copy("COPY app_log (id, key) TO STDOUT") as copy:
            copied = b"".join(copy)
        cursor.execute("SELECT 1 AS a, 2 AS b")
        names = [column.name for column in cursor.description]
        return rows, count, answer, copied, names, cursor.statusmessage, cursor.rownumber


def errors(alias: str) -> object:
    seen: list[str] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            seen.append(f"{type(error).__name__} from {type(error.__cause__).__name__}: {error}".split("DETAIL")[0])

    execute(alias, "INSERT INTO app_log (id, key) VALUES (1, 'a')")
    attempt(lambda: execute(alias, "INSERT INTO app_log (id, key) VALUES (1, 'a')"))
    attempt(lambda: execute(alias, "SELECT 1 / 0"))
    attempt(lambda: execute(alias, "SELECT nonsense"))
    attempt(lambda: execute(alias, "SELECT %s", []))
    attempt(lambda: execute(alias, "SELECT %s", [NotAdaptable()]))
    attempt(lambda: execute(alias, "SELECT 'a\x00b'"))
    attempt(lambda: connections[alias].cursor().fetchone())
    attempt(lambda: execute(alias, "VACUUM; SELECT 1"))

    def broken() -> None:
        with transaction.atomic(using=alias):
            attempt(lambda: execute(alias, "SELECT 1 / 0"))
            execute(alias, "SELECT 1")

    def marked() -> None:
        with transaction.atomic(using=alias):
            transaction.set_rollback(True, using=alias)
            execute(alias, "SELECT 1")

    attempt(broken)
    attempt(marked)
    attempt(lambda: transaction.savepoint_rollback("nonsense", using=alias))
    attempt(lambda: transaction.set_rollback(True, using=alias))
    attempt(lambda: list(Item.objects.using(alias).select_for_update()))
    return seen


STORIES: dict[str, Story] = {"orm": orm, "blocks": blocks, "manual": manual, "cursors": cursors, "errors": errors}

POOLS = {"transaction": {"mode": "transaction"}, "session": {"mode": "session"}}


def clean(alias: str) -> None:
    connections[alias].close()
    for model in (Item, Log):
        model.objects.all().delete()


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "AUTOCOMMIT=False"])
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_same_outcome_and_same_query_log(
    make_pool: MakePool, story: Story, pool: dict[str, Any], autocommit: bool
) -> None:
    """Results, errors and connection.queries, BEGIN and COMMIT among them, are those of the stock engine."""
    outcomes = []
    for options in ({"enabled": False}, pool):
        alias = make_pool(POOL=options, AUTOCOMMIT=autocommit)
        execute(alias, "SELECT 1")  # the stock engine logs nothing of connecting, ours nothing of leasing
        if not autocommit:
            connections[alias].rollback()
        with CaptureQueriesContext(connections[alias]) as queries:
            result = story(alias)
        outcomes.append((result, [query["sql"] for query in queries]))
        clean(alias)
    stock, ours = outcomes
    assert ours[0] == stock[0]
    assert ours[1] == stock[1]
    assert len(stock[1]) > 5


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_same_calls_of_execute_wrappers(make_pool: MakePool, story: Story, pool: dict[str, Any]) -> None:
    """A wrapper sees each statement once, with its parameters, its connection and a cursor that can be used."""
    outcomes = []
    for options in ({"enabled": False}, pool):
        alias = make_pool(POOL=options)
        calls: list[object] = []

        def wrapper(proceed: Any, sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
            assert context["connection"] is connections[alias]  # noqa: B023
            calls.append((sql, repr(params).split(" at 0x")[0], many))  # noqa: B023
            return proceed(sql, params, many, context)

        with connections[alias].execute_wrapper(wrapper):
            result = story(alias)
        outcomes.append((result, calls))
        clean(alias)
    stock, ours = outcomes
    assert ours == stock


def test_wrapper_that_refuses(single: str) -> None:
    """A blocked statement never reaches the server, and holds nothing when its cursor is closed."""

    class Blocked(Exception):
        pass

    def block(*args: Any) -> None:
        raise Blocked

    with connections[single].execute_wrapper(block):
        with pytest.raises(Blocked):
            Item.objects.using(single).create(name="a")
        with pytest.raises(Blocked):
            list(Item.objects.using(single).iterator())
        assert in_use(single) == 0
    assert Item.objects.count() == 0


def test_wrapper_with_statements_of_its_own(single: str) -> None:
    """A wrapper may log each statement to the database: the inner lease does not end the outer one's work."""

    def audit(proceed: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if "app_log" not in sql:
            execute(single, "INSERT INTO app_log (key) VALUES (%s)", [sql])
        result = proceed(sql, params, many, context)
        if "app_log" not in sql:
            execute(single, "INSERT INTO app_log (key) VALUES ('done')")
        return result

    with connections[single].execute_wrapper(audit):
        item = Item.objects.using(single).create(name="a")
        assert Item.objects.using(single).get(pk=item.pk).name == "a"
        with connections[single].cursor() as cursor:
            cursor.execute("SELECT 5")
            assert cursor.fetchone() == (5,)
        with pytest.raises(IntegrityError), transaction.atomic(using=single):
            Item.objects.using(single).create(pk=item.pk, name="b")
    assert in_use(single) == 0
    assert Log.objects.filter(key="done").count() == 3


@override_settings(DEBUG=True)
def test_queries_of_failed_statements_are_logged(single: str) -> None:
    connection = connections[single]
    connection.queries_log.clear()
    with pytest.raises(Error):
        execute(single, "SELECT 1 / 0")
    assert [query["sql"] for query in connection.queries] == ["SELECT 1 / 0"]
    assert in_use(single) == 0


def test_capturing_queries_does_not_pin(single: str) -> None:
    """assertNumQueries() calls ensure_connection() first: its lease ends with the next statement."""
    with CaptureQueriesContext(connections[single]) as queries:
        Item.objects.using(single).count()
        assert in_use(single) == 0
    assert len(queries) == 1
    with CaptureQueriesContext(connections[single]):
        pass
    connections[single].close()
    assert in_use(single) == 0
