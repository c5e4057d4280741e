"""The signals of every worker: what a task holds has the task's name, pools end with their process, after its tasks."""

from __future__ import annotations

from _thread import get_ident
from typing import Any

from celery import signals
from celery.app.task import Context

from ... import shutdown
from ...core.ledger import begin_unit, end_unit, thread_units, unit_labels, unit_names


def _label(context: Any) -> str:
    """For example ``task shop.tasks.send_mails[1f0c...]``."""
    return f"task {getattr(context, 'task', '')}[{context.id}]"


def _name(context: Any) -> str | None:
    name = getattr(context, "task", None)
    return name if isinstance(name, str) else None


def _begin(task: Any = None, **_: Any) -> None:
    # A task that is called eagerly belongs to the request or task that calls it.
    if get_ident() not in thread_units:
        begin_unit(task.request)


def _end(task: Any = None, **_: Any) -> None:
    if thread_units.get(get_ident()) is task.request:
        end_unit()


def _shut_down(**_: Any) -> None:
    shutdown()


unit_labels[Context] = _label
unit_names[Context] = _name
signals.task_prerun.connect(_begin, weak=False, dispatch_uid="django_dbpool.task_prerun")
signals.task_postrun.connect(_end, weak=False, dispatch_uid="django_dbpool.task_postrun")
# Of a prefork child; billiard ends it without Python's own end, so atexit does nothing there.
signals.worker_process_shutdown.connect(_shut_down, weak=False, dispatch_uid="django_dbpool.process_shutdown")
# Of the worker's main process, in whose threads or greenlets the tasks of the other kinds of worker run.
signals.worker_shutdown.connect(_shut_down, weak=False, dispatch_uid="django_dbpool.worker_shutdown")
