"""Tasks of runs, sent again: what their rows say of it, and what is made of that."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery import Celery, _state
from django.db import transaction
from kombu.utils.json import dumps, loads

if TYPE_CHECKING:
    from ...batch import Origin, Start

from ...core.logs import get_logger

logger = get_logger("django_dbpool.batch")

HEADER = "dbpool"
"""Of a message: which part of a run it is about, and what a task tells its next go."""

RENEWED = "task_ids"
"""Of a run's arguments: ids of the tasks of its parts that were resumed."""

_NOT_KEPT = ("countdown", "eta", "expires", "headers", "retries")
"""Options of a message that say nothing of one that is sent much later."""
_LONGEST_WAIT = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.4, "interval_max": 1}
"""For a broker that is away, before it is tried again at the next look."""


def headers_of(task: Any) -> dict[str, Any]:
    """What we have written on the message that this task was started by."""
    return dict((task.request.headers or {}).get(HEADER) or {})


def part_id(run: str, part: int) -> str:
    """The id of the task that does a part: the same for whoever asks, so that nobody has to keep it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"django_dbpool/{run}/{part}"))


def message_id(arguments: Mapping[str, Any], run: str, part: int, parts: int) -> str:
    """The id of the task that does a run, or a part of it, as the run's row has it now; empty if it has none."""
    if (renewed := arguments.get(RENEWED, {}).get(str(part))) is not None:
        return str(renewed)
    return part_id(run, part) if parts > 1 else str((arguments.get("options") or {}).get("task_id") or "")


def _renewed(start: Start) -> Start:
    """
    With a message of another id, now and when it is sent again: workers throw away what has an id that they were told
    to revoke.
    """
    from ...models import BatchRun

    with transaction.atomic(using=start.using):
        rows = BatchRun.objects.using(start.using).filter(name=start.name)
        found = rows.select_for_update(no_key=True).values_list("arguments", flat=True).first() or start.arguments
        arguments = {**found, RENEWED: {**found.get(RENEWED, {}), str(start.part): str(uuid.uuid4())}}
        rows.update(arguments=arguments)
    return replace(start, arguments=arguments)


def origin_of(task: Any) -> Origin | None:
    """How to send the message again that this task was started by; None where there was none."""
    if task.request.called_directly or task.request.is_eager:
        return None
    signature = task.signature_from_request(task.request)
    return written(task.name, dict(signature.kwargs or {}), dict(signature.options))


def written(name: str, kwargs: dict[str, Any], options: dict[str, Any]) -> Origin | None:
    """How to send a message again, for the run's row; None if that can't be written there."""
    from ...batch import Origin

    kept = {key: value for key, value in options.items() if key not in _NOT_KEPT and value is not None}
    try:
        # Dates and the like become what the same library reads as dates again.
        arguments = json.loads(dumps({"args": [], "kwargs": kwargs, "options": kept}))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as error:
        logger.warning("%s: its arguments can't be written down, so only the broker restarts it: %s", name, error)
        return None
    return Origin(name, arguments)


def send(start: Start) -> None:
    """
    The starter of all runs that tasks have begun.

    Raises:
        LookupError: this process has no Celery application.
        Exception: the broker's.
    """
    if start.resumed:
        start = _renewed(start)
    arguments = loads(json.dumps(dict(start.arguments)))  # type: ignore[no-untyped-call]
    options = dict(arguments.get("options") or {})
    kwargs = {**(arguments.get("kwargs") or {}), "run": start.name}
    if message := message_id(start.arguments, start.name, start.part, start.parts):
        options["task_id"] = message
    options |= {"headers": {HEADER: {"part": start.part, "parts": start.parts}}, "retry_policy": _LONGEST_WAIT}
    app = _app_with(start.task)
    if start.task in app.tasks:
        app.tasks[start.task].apply_async(kwargs=kwargs, **options)
    else:
        app.send_task(start.task, kwargs=kwargs, **options)


def _app_with(task: str) -> Celery:
    """In a process with several, as in tests, the one that knows the task."""
    apps = [app for app in _state._get_active_apps() if app.finalized]
    for app in apps:
        if task in app.tasks:
            return app
    if _state.default_app is None:
        raise LookupError(f"no Celery application was made in this process, so nobody can send {task}")
    return _state.get_current_app()
