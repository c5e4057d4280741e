"""Runs that are remembered: who has one, what failed in it, what it wants done elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import psycopg
import pytest
from django.core.management import call_command
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.db.models import F
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from django_dbpool.batch import (
    BatchProgress,
    BatchRefused,
    BatchRunTaken,
    Delivery,
    FailedItem,
    Message,
    idempotency_key,
    outbox,
    run_batches,
)
from django_dbpool.models import BatchCheckpoint, BatchFailure, BatchMessage, BatchRun
from tests.app.models import Item, Log
from tests.fixtures.batches import assert_once, count_up, fill
from tests.fixtures.pools import in_use
from tests.fixtures.workers import PATIENCE, Step, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


# -- one runner at a time -------------------------------------------------------------------------------------------


def test_two_at_once(make_worker: Callable[[], Worker]) -> None:
    """The second is told who has it, in the middle of a batch and between two."""
    fill(20)
    step = Step()

    def slow(items: list[Item]) -> None:
        step.wait()
        count_up(items)

    first = make_worker().start(lambda: run_batches(Item.objects.all(), slow, size=10, checkpoint="shared"))
    step.reached()
    with pytest.raises(BatchRunTaken, match="in the middle of a batch") as caught:
        run_batches(Item.objects.all(), count_up, checkpoint="shared", takeover_after=0.1)
    assert caught.value.name == "shared"
    assert str(BatchCheckpoint.objects.get().runner) == caught.value.runner != ""
    step.go_on()
    assert first.result(PATIENCE).done == 20
    assert_once(20)


def test_begun_at_the_same_moment(make_worker: Callable[[], Worker]) -> None:
    fill(40)
    together = threading.Barrier(4)

    def go() -> int | str:
        together.wait(PATIENCE)
        try:
            return run_batches(Item.objects.all(), count_up, size=10, checkpoint="race").handled
        except BatchRunTaken:
            return "taken"

    outcomes = [future.result(PATIENCE) for future in [make_worker().start(go) for _ in range(4)]]
    assert sum(outcome for outcome in outcomes if isinstance(outcome, int)) == 40
    assert BatchRun.objects.count() == BatchCheckpoint.objects.count() == 1
    assert_once(40)


def test_dead_runner_is_replaced_after_a_while() -> None:
    """By the age of its heartbeat on the server's clock."""
    fill(20)
    run_batches(Item.objects.all(), count_up, size=10, checkpoint="dead", deadline=60, pause=3600)
    BatchCheckpoint.objects.update(token="somebody", runner="elsewhere 7 abc")  # as if it had been killed
    with pytest.raises(BatchRunTaken, match=r"elsewhere 7 abc.*was last heard of 0 s ago") as caught:
        run_batches(Item.objects.all(), count_up, checkpoint="dead")
    assert caught.value.age is not None and caught.value.age < 30
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_dbpool_batchcheckpoint SET heartbeat = clock_timestamp() - interval '61 s'")
    result = run_batches(Item.objects.all(), count_up, checkpoint="dead")
    assert (result.done, result.handled) == (20, 10)
    assert_once(20)


def test_the_one_that_was_given_up_is_fenced_off(make_worker: Callable[[], Worker]) -> None:
    """It learns before its handler is called, and what comes after is the other one's."""
    fill(40)
    step = Step()
    called: list[int] = []

    def paused(progress: BatchProgress) -> None:
        step.wait()

    def handler(items: list[Item]) -> None:
        called.append(len(items))
        count_up(items)

    old = make_worker().start(
        lambda: run_batches(Item.objects.all(), handler, size=10, checkpoint="fenced", on_progress=paused)
    )
    step.reached()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_dbpool_batchcheckpoint SET heartbeat = clock_timestamp() - interval '1 h'")
    connection.close()

    def let_the_old_one_go_on() -> bool:
        """The run is taken over, and still where the old one has left it."""
        step.go_on()
        assert isinstance(old.exception(PATIENCE), BatchRunTaken)
        return False

    result = run_batches(Item.objects.all(), count_up, size=10, checkpoint="fenced", should_stop=let_the_old_one_go_on)
    assert (result.reason, result.done, result.handled) == ("done", 40, 30)
    assert called == [10]
    assert "no longer this runner's" in str(old.exception())
    assert_once(40)


def test_heartbeats_in_the_pause(make_worker: Callable[[], Worker], observer: psycopg.Connection[Any]) -> None:
    fill(20)
    stop = threading.Event()
    run = make_worker().start(
        lambda: run_batches(
            Item.objects.all(),
            count_up,
            size=10,
            pause=3600,
            checkpoint="beats",
            should_stop=stop.is_set,
            takeover_after=0.4,
        )
    )
    beats: set[Any] = set()
    done = threading.Event()
    timer = threading.Timer(PATIENCE, done.set)
    timer.start()
    while len(beats) < 3 and not done.is_set():
        row = observer.execute("SELECT heartbeat, done FROM django_dbpool_batchcheckpoint").fetchone()
        if row is not None and row[1] == 10:
            beats.add(row[0])
    timer.cancel()
    stop.set()
    assert run.result(PATIENCE).reason == "stopped"
    assert len(beats) == 3


# -- items that fail ------------------------------------------------------------------------------------------------


class Poison:
    """A handler whose statement the server refuses for some rows."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad
        self.calls = 0

    def __call__(self, items: list[Item]) -> None:
        self.calls += 1
        count_up(items)
        if any(item.pk in self.bad for item in items):
            Item.objects.create(name=None)  # type: ignore[misc]


@pytest.mark.parametrize("number", [200])
def test_poisoned_items_are_found(number: int) -> None:
    fill(number)
    pks = list(Item.objects.order_by("pk").values_list("pk", flat=True))
    handler = Poison({pks[0], pks[77], pks[78], pks[199]})
    result = run_batches(Item.objects.all(), handler, checkpoint="poisoned", on_error="skip")
    assert (result.reason, result.done, result.failed) == ("done", number - 4, 4)
    assert [key for (key,), _ in result.failures] == sorted(handler.bad)
    recorded = BatchFailure.objects.order_by("pk")
    assert [each.key for each in recorded] == [[pk] for pk in sorted(handler.bad)]
    assert {each.error_type for each in recorded} == {"django.db.utils.IntegrityError"}
    assert all("null value in column" in each.error and each.skipped for each in recorded)
    assert all("test_batch_runs.py" in each.place and each.place.endswith("in __call__") for each in recorded)
    assert "Failing row" not in recorded[0].error  # the detail, which quotes values
    assert Item.objects.filter(n=1).count() == Log.objects.count() == number - 4
    assert not Item.objects.filter(n__gt=1).exists()


def test_ten_thousand_with_five_poisoned() -> None:
    fill(10_000)
    pks = list(Item.objects.order_by("pk").values_list("pk", flat=True))
    handler = Poison({pks[n] for n in (3, 2_500, 5_049, 7_777, 9_999)})
    result = run_batches(Item.objects.all(), handler, size=250, checkpoint="poisoned", on_error="skip")
    assert (result.done, result.failed) == (9_995, 5)
    assert set(BatchFailure.objects.values_list("key__0", flat=True)) == handler.bad
    assert Item.objects.filter(n=1).count() == Log.objects.count() == 9_995
    # A batch of 250 is halved eight times, and each half that is well is one call.
    assert handler.calls - 40 <= 5 * 2 * 8


def test_fatal_item() -> None:
    """What comes before it is done, and the next start begins with it."""
    fill(100)
    pks = list(Item.objects.order_by("pk").values_list("pk", flat=True))
    handler = Poison({pks[30]})
    for times in (1, 2):
        with pytest.raises(IntegrityError) as caught:
            run_batches(Item.objects.all(), handler, checkpoint="fatal")
        assert str(pks[30]) in caught.value.__notes__[-1]
        failure = BatchFailure.objects.get()
        assert (failure.key, failure.skipped, failure.times) == ([pks[30]], False, times)
        assert Log.objects.count() == 30
    handler.bad.clear()
    assert run_batches(Item.objects.all(), handler, checkpoint="fatal").done == 100
    assert_once(100)


def test_somebody_is_asked() -> None:
    fill(50)
    pks = list(Item.objects.order_by("pk").values_list("pk", flat=True))
    asked: list[FailedItem[Item]] = []

    def decide(failed: FailedItem[Item]) -> Literal["raise", "skip"]:
        assert in_use("default") == 0
        asked.append(failed)
        return "skip" if failed.item.pk == pks[10] else "raise"

    with pytest.raises(IntegrityError):
        run_batches(Item.objects.all(), Poison({pks[10], pks[20]}), on_error=decide)
    assert [(each.key, type(each.error)) for each in asked] == [((pks[n],), IntegrityError) for n in (10, 20)]
    assert Log.objects.count() == 19
    with pytest.raises(TypeError, match="on_error returned None"):
        run_batches(Item.objects.all(), Poison({pks[0]}), on_error=lambda failed: None)  # type: ignore[arg-type,return-value]


def test_a_handler_that_fails_always_is_stopped() -> None:
    fill(50)

    def wrong(items: list[Item]) -> None:
        raise KeyError("of the code, not of an item")

    with pytest.raises(KeyError) as caught:
        run_batches(Item.objects.all(), wrong, checkpoint="wrong", on_error="skip", max_failures=3)
    assert "max_failures" in caught.value.__notes__[0]
    assert BatchFailure.objects.filter(skipped=True).count() == 3


def test_an_error_that_the_handler_swallows() -> None:
    """The server would roll all of it back at COMMIT, without a word."""
    fill(10)

    def swallows(items: list[Item]) -> None:
        count_up(items)
        with suppress(IntegrityError):
            Item.objects.create(name=None)  # type: ignore[misc]

    def swallows_raw(items: list[Item]) -> None:
        count_up(items)
        with suppress(OperationalError, DataError), connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    for handler, what in ((swallows, "a database error that it caught"), (swallows_raw, "has caught a database error")):
        with pytest.raises(BatchRefused, match=what):
            run_batches(Item.objects.all(), handler, checkpoint=handler.__name__)
    assert not Log.objects.exists()

    def rolls_back(items: list[Item]) -> None:
        transaction.set_rollback(True)

    with pytest.raises(BatchRefused, match="set_rollback"):
        run_batches(Item.objects.all(), rolls_back)


def test_deferred_constraint(observer: psycopg.Connection[Any]) -> None:
    """Found at COMMIT, by the item that breaks it."""
    fill(20)
    bad = Item.objects.order_by("pk")[13].pk

    def handler(items: list[Item]) -> None:
        count_up(items)
        if any(item.pk == bad for item in items):
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO app_seat (item_id, number, n) VALUES (0, 0, 0)")

    result = run_batches(Item.objects.all(), handler, checkpoint="deferred", on_error="skip")
    assert (result.done, result.failed) == (19, 1)
    assert BatchFailure.objects.get().key == [bad]
    assert Log.objects.count() == 19


def test_statement_limit() -> None:
    """A statement that is too slow for a batch may be fast enough for half of it; if not, it is the item."""
    fill(8)
    bad = Item.objects.order_by("pk")[5].pk

    def handler(items: list[Item]) -> None:
        count_up(items)
        if any(item.pk == bad for item in items):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(30)")

    with pytest.raises(OperationalError, match="statement timeout"):
        run_batches(Item.objects.all(), handler, checkpoint="slow", statement_timeout=0.3)
    assert Log.objects.count() == 5
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


def test_transient_failures_repeat_the_batch() -> None:
    fill(20)
    failing = iter([True, False, True, True, False])

    def handler(items: list[Item]) -> None:
        count_up(items)
        if next(failing):
            with connection.cursor() as cursor:
                cursor.execute("DO $$BEGIN RAISE EXCEPTION 'now' USING ERRCODE = '40001'; END$$")

    result = run_batches(Item.objects.all(), handler, size=10, checkpoint="transient", on_error="skip")
    assert (result.done, result.failed) == (20, 0)
    assert_once(20)


def test_statements_of_a_batch() -> None:
    """Reading, checkpoint, and the handler's two: nothing else, in the order that keeps others out."""
    fill(20)
    with CaptureQueriesContext(connection) as queries:
        run_batches(Item.objects.all(), count_up, size=10, checkpoint="counted", should_stop=lambda: False)
    texts = [each["sql"] for each in queries]
    batches = [n for n, text in enumerate(texts) if text.startswith('UPDATE "app_item"')]
    assert len(batches) == 2
    for n in batches:
        assert texts[n - 3] == "BEGIN"
        assert texts[n - 2].startswith("SELECT")
        assert texts[n - 1].startswith("UPDATE django_dbpool_batchcheckpoint SET last_key")
        assert texts[n + 1].startswith("INSERT")
        assert texts[n + 2] == "COMMIT"


# -- effects elsewhere ----------------------------------------------------------------------------------------------


def test_idempotency_keys() -> None:
    """The same in each attempt, another one for each item, run and purpose."""
    fill(4)
    keys: list[tuple[str, str]] = []

    def handler(items: list[Item]) -> None:
        keys.extend((item.name, idempotency_key(item)) for item in items)
        keys.extend((f"{item.name} by mail", idempotency_key(item, "mail")) for item in items)
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            run_batches(Item.objects.all(), handler, size=4, checkpoint="keys")
    assert len(keys) > 2 * 8
    found = dict(keys)
    assert len(set(keys)) == len(found) == len(set(found.values())) == 8
    keys.clear()
    with pytest.raises(ValueError):
        run_batches(Item.objects.all(), handler, size=4, checkpoint="others")
    assert not set(found.values()) & {key for _, key in keys}


def test_idempotency_key_needs_a_name() -> None:
    fill(1)
    with pytest.raises(RuntimeError, match="outside of a handler"):
        idempotency_key(Item.objects.get())
    with pytest.raises(RuntimeError, match="without a name"):
        run_batches(Item.objects.all(), lambda items: [idempotency_key(item) for item in items])


def test_outbox() -> None:
    fill(20)
    bad = Item.objects.order_by("pk")[3].pk

    def handler(items: list[Item]) -> None:
        count_up(items)
        for item in items:
            outbox.put("mail", {"item": item.pk}, key=idempotency_key(item))
        if any(item.pk == bad for item in items):
            raise ValueError

    run_batches(Item.objects.all(), handler, size=10, checkpoint="mails", on_error="skip")
    assert BatchMessage.objects.count() == 19  # what was rolled back has sent nothing
    sent: list[Message] = []

    def send(message: Message) -> None:
        assert in_use("default") == 0
        if message.payload["item"] % 2 and message.attempts == 1:
            raise ConnectionError("no mail server")
        sent.append(message)

    first = outbox.deliver("mail", send)
    assert first.delivered + first.failed == 19
    assert first.failed in (9, 10)
    assert outbox.deliver("mail", send) == Delivery(0, 0)  # not yet
    assert set(BatchMessage.objects.values_list("error", flat=True)) == {"no mail server"}
    BatchMessage.objects.update(due=F("created"))
    assert outbox.deliver("mail", send, limit=3) == Delivery(3, 0)
    assert outbox.deliver("mail", send) == Delivery(first.failed - 3, 0)
    assert len({message.key for message in sent}) == len(sent) == 19
    assert not BatchMessage.objects.exists()


def test_outbox_refuses() -> None:
    with pytest.raises(TransactionManagementError, match=r"outbox\.put\(\) outside of a transaction"):
        outbox.put("mail", {}, key="a")
    with transaction.atomic(), pytest.raises(BatchRefused):
        outbox.deliver("mail", print)
    with pytest.raises(TypeError, match="topic"):
        outbox.put(7, {}, key="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="key"):
        outbox.put("mail", {}, key="")


def test_two_deliver_at_once(make_worker: Callable[[], Worker]) -> None:
    with transaction.atomic():
        for number in range(6):
            outbox.put("mail", number, key=str(number))
            outbox.put("mail", number, key=str(number))
    step = Step()
    sent: list[int] = []

    def slow(message: Message) -> None:
        if not sent:
            step.wait()
        sent.append(message.payload)

    first = make_worker().start(lambda: outbox.deliver("mail", slow))
    step.reached()
    second = outbox.deliver("mail", lambda message: sent.append(message.payload))
    step.go_on()
    assert second.delivered + first.result(PATIENCE).delivered == 6
    assert sorted(sent) == list(range(6))


def test_tables_and_models_agree() -> None:
    call_command("makemigrations", "django_dbpool", check=True, dry_run=True, verbosity=0)
