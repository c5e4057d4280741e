"""Runs of batches, paused, resumed and cancelled by somebody: noted and logged before it is done."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError

from .. import batch
from ..batch import BatchRunEnded, BatchRunMissing, RunStatus
from ..core.logs import get_logger
from ..core.words import one_line
from ..fleet.reading import first_line
from ..transaction import deadline, reserved
from .acted import DONE, FAILED, GONE, OVER, UNREACHABLE, Acted
from .service import note_before

logger = get_logger("django_dbpool.commands")

PATIENCE = 5.0
"""Seconds that it may take."""

VERBS: dict[str, Callable[[str, str], RunStatus]] = {
    "pause": batch.pause,
    "resume": batch.resume,
    "cancel": batch.cancel,
}


def control(verb: str, name: str, using: str, *, actor: str, note: Callable[[], object] | None = None) -> Acted:
    """
    Pause, resume or cancel a run for somebody, and say what came of it.

    Args:
        verb: "pause", "resume" or "cancel".
        name: of the run.
        using: database alias of its rows.
        actor: who wants it, for the log.
        note: called before it is done. What it raises is logged, and stops nothing.

    Raises:
        ValueError: there is no such verb.

    Example:
        control("pause", "expire vouchers 2026-11", "default", actor="night shift").outcome
    """
    if verb not in VERBS:
        raise ValueError(f"control(verb={one_line(repr(verb), 60)}): there are: {', '.join(VERBS)}.")
    began = monotonic()
    actor = one_line(str(actor), 150) or "nobody"
    logger.warning("%s of batch run %r on database %r, asked for by %s", verb, name, using, actor)
    if note is not None:
        note_before(note)
    result = None
    try:
        # The message to a task queue, too, is sent in this time, or by the next reaper.
        with reserved(), deadline(PATIENCE):
            found = VERBS[verb](name, using)
    except BatchRunMissing as error:
        outcome, text = GONE, str(error)
    except BatchRunEnded as error:
        outcome, text = OVER, str(error)
    except DatabaseError as error:
        outcome, text = UNREACHABLE, first_line(error)
    except ImproperlyConfigured as error:  # there are no tables: nothing can have been done
        outcome, text = FAILED, first_line(error)
    except Exception as error:
        logger.exception("%s of batch run %r failed", verb, name)
        outcome, text = FAILED, f"{type(error).__name__}; see the log."
    else:
        outcome, text, result = DONE, told(verb, found), found.to_json()
    logger.info("%s of batch run %r, asked for by %s: %s", verb, name, actor, outcome)
    return Acted(outcome, text, monotonic() - began, result=result)


def told(verb: str, run: RunStatus) -> str:
    """What happens next."""
    if run.runners and verb != "resume":
        return (
            "It stops when the batch at hand is done." if verb == "pause" else "It ends when the batch at hand is done."
        )
    if verb != "resume":
        return "Nobody was at work on it." + (" It has ended." if verb == "cancel" else "")
    if run.runners:
        return "It goes on."
    if not run.task:
        return "It may go on: whoever starts it has to start it again, since no task does it."
    return "Its task is sent again, by this process or by the next worker that looks for runs without a runner."
