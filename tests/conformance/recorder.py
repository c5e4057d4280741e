"""The test runner that Django's ``runtests.py`` loads: it records the outcome of each test as a line of JSON.

It runs in the environment under test as a top-level module, so it imports nothing of this package.
"""

from __future__ import annotations

import faulthandler
import json
import os
import time
import unittest
from traceback import format_exception
from typing import Any

from django.test.runner import DiscoverRunner

RECORD_FILE = "DJANGO_SUITE_RECORD"
TEST_LIMIT = "DJANGO_SUITE_TEST_LIMIT"

# The worst outcome wins: one failing subtest fails the test.
_RANK = {"ok": 0, "xfail": 1, "skip": 1, "usuccess": 2, "fail": 3, "error": 4}


def _record(line: dict[str, Any]) -> None:
    # Opened for each line: a file kept open is a ResourceWarning, which Django's suite turns into an error.
    with open(os.environ[RECORD_FILE], "a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


def _first_line(err: Any) -> str:
    text = str(err[1]).strip()
    return f"{err[0].__name__}: {text.splitlines()[0] if text else ''}".rstrip(": ")


class RecordingResult(unittest.TextTestResult):
    """Writes a line when a test starts, so that a crash or a hang can be blamed on it, and one at its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit = float(os.environ.get(TEST_LIMIT, "0"))
        self._current: dict[str, Any] | None = None
        self._since = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        self._current = {"id": test.id(), "outcome": "ok", "reason": "", "traceback": ""}
        self._since = time.monotonic()
        _record({"started": test.id()})
        if self._limit:
            faulthandler.dump_traceback_later(self._limit, exit=True, file=2)
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        if self._limit:
            faulthandler.cancel_dump_traceback_later()
        if self._current is not None:
            _record({**self._current, "seconds": round(time.monotonic() - self._since, 4)})
            self._current = None

    def _note(self, test: Any, outcome: str, reason: str, traceback: str = "") -> None:
        if self._current is not None:
            if _RANK[outcome] >= _RANK[self._current["outcome"]]:
                self._current.update(outcome=outcome, reason=reason, traceback=traceback)
            return
        # setUpClass, tearDownClass and module-level errors come without startTest() and stopTest().
        _record({"id": test.id(), "outcome": outcome, "reason": reason, "traceback": traceback, "seconds": 0.0})

    def _note_error(self, test: Any, outcome: str, err: Any) -> None:
        self._note(test, outcome, _first_line(err), "".join(format_exception(*err)))

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._note_error(test, "error", err)

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._note_error(test, "fail", err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            self._note_error(subtest, "fail" if failed else "error", err)

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._note(test, "skip", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._note(test, "xfail", _first_line(err))

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self._note(test, "usuccess", "unexpected success")


class RecordingRunner(DiscoverRunner):
    """Only the outermost runner records: Django's tests of its test runner start further ones."""

    outermost: RecordingRunner | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if RecordingRunner.outermost is None:
            RecordingRunner.outermost = self

    def get_resultclass(self) -> Any:
        return RecordingResult if self is RecordingRunner.outermost else super().get_resultclass()

    def run_tests(self, *args: Any, **kwargs: Any) -> int:
        failures: int = super().run_tests(*args, **kwargs)
        # After the test databases are gone: an error while they are destroyed leaves the record unfinished.
        if self is RecordingRunner.outermost:
            _record({"finished": True, "failures": failures})
        return failures
