"""What a project's logging does to the package's loggers, and what it doesn't."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import django_dbpool
from django_dbpool.core.logs import get_logger


def test_what_a_filter_raises_is_told_and_goes_no_further(
    break_log: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    logger = get_logger("django_dbpool.test_logs")
    break_log(logger.name)
    logger.warning("something happened")
    assert "RuntimeError: the log is broken" in capsys.readouterr().err


def test_nothing_is_told_where_a_project_wants_none_of_it(
    break_log: Callable[[str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = get_logger("django_dbpool.test_logs")
    break_log(logger.name)
    logger.warning("something happened")
    assert capsys.readouterr().err == ""


def test_an_interrupt_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = get_logger("django_dbpool.test_logs")

    def interrupt(record: logging.LogRecord) -> bool:
        raise KeyboardInterrupt

    logger.addFilter(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            logger.warning("something happened")
    finally:
        logger.removeFilter(interrupt)


def test_records_say_who_wrote_them(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("django_dbpool.test_logs").warning("something %s", "happened", extra={"more": 1})
    (record,) = caplog.records
    assert (record.name, record.getMessage(), record.filename) == (
        "django_dbpool.test_logs",
        "something happened",
        "test_logs.py",
    )
    assert vars(record)["more"] == 1


def test_the_package_has_no_other_loggers() -> None:
    package = Path(django_dbpool.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "= logging.getLogger(" in path.read_text()]
    assert found == ["logs.py"]


GONE = {
    "none": "sys.stderr = None",
    "closed": "sys.stderr.close()",
    "nobody reads": "read, write = os.pipe(); os.close(read); os.dup2(write, 2)",
}


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
def test_a_filter_may_raise_while_a_server_has_no_standard_error_output(gone: str) -> None:
    code = (
        "import os, sys; from django_dbpool.core.logs import get_logger\n"
        "logger = get_logger('x'); logger.addFilter(lambda record: 1 / 0)\n"
        f"{gone}; logger.warning('something happened'); print('on', flush=True)\n"
        "os._exit(0)  # else Python itself flushes what nobody can read\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "on\n"
