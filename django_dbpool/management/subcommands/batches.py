"""``manage.py dbpool batches``: runs of batches, how far they are, and what is to become of them."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError

from ... import batch, reports
from ...acting.acted import DONE, GONE, OVER
from ...acting.batches import control
from ...batch.deleting import old_runs
from ...batch.status import TROUBLE, distinct
from ...conf import project_config
from ...fleet.reading import first_line
from ...reports import BatchRow
from .. import arguments, batch_text, subcommand

WELL, NOT, UNKNOWN = 0, 1, 2
MOST = 1000
"""Runs that are listed."""
NAMED = ("show", "failures", "pause", "resume", "cancel")
ACTIONS = ("list", *NAMED, "delete-old", "reap")


def alias(text: str) -> str:
    """A database that may remember runs."""
    known = batch.databases()
    if text not in known:
        raise ArgumentTypeError(f"no PostgreSQL database is called {text!r}; there are: {', '.join(known) or 'none'}")
    return text


@dataclass(frozen=True, slots=True)
class Asked:
    """What stands on the command line."""

    name: str
    using: str | None
    state: str
    days: int | None
    limit: int
    yes: bool
    dry_run: bool
    as_json: bool

    @property
    def databases(self) -> list[str]:
        return batch.databases() if self.using is None else [self.using]


class Stop(Exception):
    """
    Args:
        code: to exit with.
        text: why, for people.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Subcommand(subcommand.Subcommand):
    help = "Shows runs of batches, and pauses, resumes or cancels them."
    description = (
        "list (where nothing is said): the runs that are open, how far they are and who works on them. show: one with "
        "its parts. failures: its items that could not be done. pause, resume, cancel: its runners obey when the batch "
        "at hand is done, wherever they are. delete-old: forget runs that ended long ago; says first how many. reap: "
        "send again what has lost its runner, where this process knows how. Explained in docs/batches-control.md of "
        "the sources."
    )
    examples = (
        ("batches", "what is open, and whether somebody gets on with it"),
        ("batches --state all --json", "everything, for programs"),
        ("batches show 'newsletter 7'", "one, with its parts and their runners"),
        ("batches pause 'newsletter 7'", "until `batches resume 'newsletter 7'`"),
        ("batches cancel 'newsletter 7' --yes", "end it for good, without a question"),
        ("batches failures 'newsletter 7'", "which items failed, and why"),
        ("batches delete-old --days 90 --dry-run", "how many would be forgotten"),
    )
    exit_codes = {
        WELL: "no open run is in trouble, or what was asked for was done",
        NOT: "one is dead, given up or has failed; there is no such run, or it has ended; or nobody has confirmed it",
        UNKNOWN: "a database can't be asked, or has no tables for it; or wrong usage or settings",
    }

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="action", help=_LISTED)
        parser.add_argument(
            "name", nargs="?", default="", help="Of the run: for show, failures, pause, resume, cancel."
        )
        parser.add_argument(
            "--using",
            "--database",
            type=alias,
            metavar="ALIAS",
            help="Only in this database. Default: all; a name that only one of them knows is found there.",
        )
        parser.add_argument(
            "--state",
            choices=[*reports.BATCH_STATES, "all"],
            default="open",
            help="list: those in this state. trouble: open, and dead, given up or failed. Default: open.",
        )
        parser.add_argument(
            "--days",
            type=arguments.count(1, 36_500),
            metavar="N",
            help="delete-old: that ended more than N days ago. Default: DBPOOL['BATCH_RETENTION'].",
        )
        parser.add_argument(
            "--limit",
            type=arguments.count(1, MOST),
            default=50,
            metavar="N",
            help="At most so many runs or failed items. Default: 50.",
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--yes", action="store_true", help="Don't ask, do it.")
        how.add_argument("--dry-run", action="store_true", help="Only say what would be done.")
        parser.add_argument("--json", action="store_true", help="Print JSON; asks nothing.", dest="as_json")

    def run(self, *, action: str = "list", **options: Any) -> int:
        asked = Asked(**{key: options[key] for key in Asked.__slots__ if key in options})
        try:
            if (action in NAMED) != bool(asked.name):
                raise Stop(UNKNOWN, f"`batches {action}` needs the name of a run." if action in NAMED else _NO_NAME)
            return self._actions[action](self, asked)
        except Stop as stop:
            self.stderr.write(self.style.ERROR(str(stop)))
            return stop.code
        except (DatabaseError, ImproperlyConfigured) as error:
            self.stderr.write(self.style.ERROR(first_line(error)))
            return UNKNOWN

    # -- look -----------------------------------------------------------------------------------------------------

    def _list(self, asked: Asked) -> int:
        state = "" if asked.state == "all" else asked.state
        found = reports.batches(alias=asked.using or "", state=state, per_page=asked.limit)
        rows = found.rows.items
        if asked.as_json:
            document = {
                "runs": [row.to_json() for row in rows],
                "total": found.rows.total,
                "remarks": list(found.remarks),
            }
            self.stdout.write(json.dumps(document, indent=2))
        else:
            several = len({row.alias for row in rows}) > 1
            columns = None if several else -1
            self._table(batch_text.RUNS[:columns], [batch_text.run_cells(row)[:columns] for row in rows])
            if left_out := found.rows.total - len(rows):
                self.stdout.write(f"and {left_out} more")
            elif not rows and not found.remarks:
                self.stdout.write(batch_text.NONE[asked.state])
            for remark in found.remarks:
                self.stderr.write(self.style.WARNING(remark))
            for row in rows:
                if row.condition in TROUBLE:
                    self.stdout.write(self.style.ERROR(batch_text.trouble(row)))
        if found.remarks:
            return UNKNOWN
        return NOT if any(row.condition in TROUBLE for row in rows) else WELL

    def _show(self, asked: Asked) -> int:
        row = self._found(asked)
        if asked.as_json:
            self.stdout.write(json.dumps(row.to_json(), indent=2))
        else:
            self._table(batch_text.RUNS, [batch_text.run_cells(row)])
            self.stdout.write(f"task {row.task or '-'}, model {row.model}, wanted: {row.wanted}")
            self._table(batch_text.PARTS, [batch_text.part_cells(row, each) for each in row.parts])
            if row.condition in TROUBLE:
                self.stdout.write(self.style.ERROR(batch_text.trouble(row)))
        return NOT if row.condition in TROUBLE else WELL

    def _failures(self, asked: Asked) -> int:
        row = self._found(asked)
        page, why = reports.batch_failures(row.name, row.alias, per_page=asked.limit)
        if why:
            raise Stop(UNKNOWN, why)
        if asked.as_json:
            document = {"run": row.name, "failures": [each.to_json() for each in page.items], "total": page.total}
            self.stdout.write(json.dumps(document, indent=2))
            return WELL
        if not page.items:
            self.stdout.write("No item has failed.")
            return WELL
        self._table(batch_text.FAILED, [batch_text.failure_cells(each) for each in page.items])
        if page.total > len(page.items):
            self.stdout.write(f"and {page.total - len(page.items)} more")
        return WELL

    def _found(self, asked: Asked) -> BatchRow:
        """
        The run of that name.

        Raises:
            Stop: there is none, there are several, or a database can't say.
        """
        found, reasons = [], []
        for each in asked.databases:
            row, why = reports.batch(asked.name, each)
            found += [row] if row is not None else []
            reasons += [why] if why else []
        if len(found) == 1 or (found and len(distinct(row.alias for row in found)) == 1):
            return found[0]
        if found:
            where = ", ".join(row.alias for row in found)
            raise Stop(UNKNOWN, f"Several databases have a run {asked.name!r}: {where}. Say --using.")
        if len(reasons) == len(asked.databases):
            raise Stop(UNKNOWN, reasons[0])
        raise Stop(NOT, f"There is no batch run {asked.name!r}." + "".join(f" {why}" for why in reasons))

    # -- do -------------------------------------------------------------------------------------------------------

    def _control(self, verb: str, asked: Asked) -> int:
        row = self._found(asked)
        if asked.dry_run:
            self.stdout.write(f"Would {verb} {row.name!r} in database {row.alias!r}, which is {row.condition}.")
            return WELL
        question = f"Cancel {row.name!r}, with {batch_text.progress(row)} done, for good?"
        if verb == "cancel" and row.state == "open" and not asked.yes:
            self._confirm(question, asked)
        acted = control(verb, row.name, row.alias, actor=_actor())
        if asked.as_json:
            self.stdout.write(json.dumps(acted.to_json(), indent=2))
        else:
            style = self.style.SUCCESS if acted.outcome == DONE else self.style.ERROR
            self.stdout.write(f"{row.name}: " + style(acted.outcome) + f". {acted.text}")
        return WELL if acted.outcome == DONE else NOT if acted.outcome in (OVER, GONE) else UNKNOWN

    def _delete_old(self, asked: Asked) -> int:
        days = asked.days or project_config().batch_retention
        if days is None:
            raise Stop(UNKNOWN, "DBPOOL['BATCH_RETENTION'] is None, so runs are kept. Say --days.")
        counts = self._of_each(asked, lambda each: old_runs(days, each).count())
        counts = {each: counts[each] for each in distinct(counts)}
        for each, number in counts.items():
            self._say(asked, f"Database {each!r}: {batch_text.counted(number)} ended more than {days} days ago.")
        deleted = dict.fromkeys(counts, 0)
        if any(counts.values()) and not asked.dry_run:
            if not asked.yes:
                self._confirm(f"Forget {batch_text.counted(sum(counts.values()))}, with all failed items?", asked)
            deleted = {each: batch.delete_old(days, each) for each in counts}
            self._say(asked, f"{batch_text.counted(sum(deleted.values()))} forgotten.")
        if asked.as_json:
            self.stdout.write(json.dumps({"days": days, "old": counts, "deleted": deleted}, indent=2))
        return WELL

    def _reap(self, asked: Asked) -> int:
        sent = self._of_each(asked, batch.reap)
        if asked.as_json:
            self.stdout.write(json.dumps({"sent": sent}, indent=2))
            return WELL
        for each, names in sent.items():
            for name in names:
                self.stdout.write(f"sent again: {name} (database {each!r})")
        if not any(sent.values()):
            self.stdout.write("Nothing had to be sent again, or this process doesn't know how.")
        return WELL

    def _of_each(self, asked: Asked, do: Callable[[str], Any]) -> dict[str, Any]:
        """Of each database; one that has no tables for it is left out, unless it alone is meant."""
        found, missing = {}, None
        for each in asked.databases:
            try:
                found[each] = do(each)
            except ImproperlyConfigured as error:
                missing = error
        if missing is not None and not found:
            raise missing
        return found

    def _confirm(self, question: str, asked: Asked) -> None:
        """
        Raises:
            Stop: somebody doesn't want it, or nobody can be asked.
        """
        if asked.as_json or not sys.stdin.isatty():
            raise Stop(NOT, "Nothing was done. Say --yes to do it.")
        self.stdout.write(f"{question} [y/N] ", ending="")
        self.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Stop(NOT, "Nothing was done.")

    def _say(self, asked: Asked, text: str) -> None:
        if not asked.as_json:
            self.stdout.write(text)

    def _table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if not rows:
            return
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        for number, row in enumerate((heads, *rows)):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self.stdout.write(self.style.MIGRATE_HEADING(line) if number == 0 else line)

    _actions: dict[str, Callable[[Subcommand, Asked], int]] = {
        "list": _list,
        "show": _show,
        "failures": _failures,
        "pause": lambda self, asked: self._control("pause", asked),
        "resume": lambda self, asked: self._control("resume", asked),
        "cancel": lambda self, asked: self._control("cancel", asked),
        "delete-old": _delete_old,
        "reap": _reap,
    }


_LISTED = f"{', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}. Default: list."
_NO_NAME = "Only show, failures, pause, resume and cancel take a name."


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()} (manage.py dbpool batches)"
