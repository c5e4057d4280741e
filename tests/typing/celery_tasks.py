"""User code: long jobs as tasks of Celery, and the control of their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, assert_type

from celery import Celery
from django.contrib.auth.models import User
from django.db.models import QuerySet

from django_dbpool import batch
from django_dbpool.batch import BatchProgress, FailedItem, Origin, PartStatus, RunStatus, Start
from django_dbpool.contrib.celery import BatchRunFailed, BatchTask, DatabaseTask, FannedOut, batch_task, reap

app = Celery("shop", set_as_current=False)


class Recount(DatabaseTask):
    name = "shop.recount"
    idempotent = True
    max_retries = None
    retry_backoff = 0.5

    def run(self, domain: str) -> int:
        return User.objects.filter(email__endswith=domain).count()


class Retire(BatchTask):
    name = "shop.retire"
    size, pause = 100, 0.5
    key = ("username", "id")
    statement_timeout = 5
    on_error = "skip"

    def get_queryset(self, domain: str, **kwargs: Any) -> QuerySet[User]:
        return User.objects.filter(email__endswith=domain)

    def process_batch(self, users: list[User], **kwargs: Any) -> None:
        User.objects.filter(pk__in=[user.pk for user in users]).update(is_active=False)

    def get_checkpoint(self, domain: str, **kwargs: Any) -> str:
        return f"retire users of {domain}"

    def on_progress(self, progress: BatchProgress, **kwargs: Any) -> None:
        assert_type(progress.done, int)


class Greet(BatchTask):
    """Item by item."""

    name = "shop.greet"
    busy_above = None

    def get_queryset(self, **kwargs: Any) -> QuerySet[User]:
        return User.objects.filter(is_active=True)

    def process_item(self, user: User, **kwargs: Any) -> None:
        user.first_name = user.first_name.title()
        user.save(update_fields=["first_name"])


def everybody(domain: str) -> QuerySet[User]:
    return User.objects.filter(email__endswith=domain)


@batch_task(everybody, size=10, pause=0.5)
def activate(users: list[User], domain: str) -> None:
    User.objects.filter(pk__in=[user.pk for user in users]).update(is_active=True)


recount, retire, greet = Recount(), Retire(), Greet()
for task in (recount, retire, greet):
    app.register_task(task)


def skip_staff(failed: FailedItem[User]) -> Literal["raise", "skip"]:
    return "skip" if failed.item.is_staff else "raise"


def retire_together() -> RunStatus:
    fanned = retire.fan_out(4, domain="@example.com")
    assert_type(fanned, FannedOut)
    again = FannedOut(fanned.name, fanned.using, fanned.parts)
    assert_type(again.task_ids, list[str])
    try:
        return again.get(timeout=3600)
    except BatchRunFailed as failed:
        assert_type(failed.status, RunStatus)
        raise


def look(name: str) -> list[str]:
    found: RunStatus = batch.status(name)
    parts: tuple[PartStatus, ...] = found.ranges
    late = [f"{part.part}: {part.condition}, {part.heartbeat_age:.0f} s" for part in parts]
    assert_type(batch.runs(state="open"), list[RunStatus])
    assert_type(found.rate, float | None)
    return [*late, *batch.databases()]


def control(name: str) -> None:
    assert_type(batch.pause(name), RunStatus)
    assert_type(batch.resume(name, using="default"), RunStatus)
    assert_type(batch.cancel(name), RunStatus)
    assert_type(batch.delete_old(90), int)


def from_another_queue(send: Any) -> None:
    def start(run: Start) -> None:
        send(run.task, run.arguments, part=run.part)

    batch.register_starter("shop.", start)
    batch.unregister_starter("shop.")
    parts = batch.split(everybody("@example.com"), 4, checkpoint="retire", origin=Origin("shop.retire", {"args": []}))
    assert_type(parts, int)
    for part in range(parts):
        batch.run_batches(everybody("@example.com"), print, checkpoint="retire", part=part)


def by_cron() -> list[str]:
    reap.delay()
    return [*batch.reap(), *(str(run) for run in batch.dead_runs())]


ERRORS = (
    batch.BatchRefused,
    batch.BatchRunEnded,
    batch.BatchRunMismatch,
    batch.BatchRunMissing,
    batch.BatchRunTaken,
)

if TYPE_CHECKING:

    class Wrong(BatchTask):
        size = "fifty"  # type: ignore[assignment]
        on_error = "ignore"  # type: ignore[assignment]

        def get_queryset(self, **kwargs: Any) -> list[User]:  # type: ignore[override]
            return []

        def process_batch(self, users: User, **kwargs: Any) -> None:  # type: ignore[override]
            pass

    def refused(run: RunStatus) -> None:
        retire.fan_out("4")  # type: ignore[arg-type]
        batch.pause()  # type: ignore[call-arg]
        batch.status(7)  # type: ignore[arg-type]
        run.done = 7  # type: ignore[misc]
