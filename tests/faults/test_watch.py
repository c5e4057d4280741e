"""`dbpool status --watch` and `dbpool runbook` in a real terminal, in front of a site in which somebody is planted."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testproject.culprits.planting import CULPRITS
from testproject.culprits.run import Stage, running
from testproject.harness.interrupts import Interrupts
from testproject.processes import wait_until
from tests.fixtures.terminal import Terminal, needs_tmux, terminal
from tests.fixtures.workers import PATIENCE

pytestmark = [pytest.mark.ci, needs_tmux]

ROUTE = "GET /invoices/<int:pk>/pay/"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A site whose visitors wait for those who pay."""
    with Interrupts() as interrupts, running(CULPRITS["view"], interrupts) as stage:
        yield stage


@pytest.fixture
def shell(stage: Stage) -> Iterator[Terminal]:
    # Not tmp_path, whose name is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="dbp") as directory, terminal(Path(directory), os.environ) as shell:
        yield shell


def watch(shell: Terminal, stage: Stage, *options: str) -> str:
    shell.type(stage.command, "dbpool", "status", "--watch", *options)
    return shell.wait_for("Who holds connections", ROUTE, "q: quit")


def assert_restored(shell: Terminal, code: int) -> None:
    """The shell's own screen, a cursor, keys that are seen; and the exit code."""
    assert wait_until(lambda: shell.state("alternate_on") == ["0"], PATIENCE), shell.text
    shell.line("echo code=$?; stty -a")
    text = shell.wait_for("code=", "icanon", "ready>")
    assert f"code={code}\n" in text
    assert not {"-icanon", "-echo", "-isig"} & set(text.split())
    assert shell.state("cursor_flag", "wrap_flag") == ["1", "1"]


def test_one_glance(shell: Terminal, stage: Stage) -> None:
    """Who it is stands above everything else, in colour, and nothing is wider than the terminal."""
    text = watch(shell, stage)
    top = text.partition("Who holds connections")[0]
    assert "UNHEALTHY" in text.splitlines()[0]
    assert "s ago" in text.splitlines()[0]
    assert f"{ROUTE} holds" in top
    assert "it waits for something that is not the database" in " ".join(top.split())
    assert "\x1b[1m\x1b[37m\x1b[41m UNHEALTHY" in shell.codes or "41m UNHEALTHY" in shell.codes
    assert shell.state("alternate_on", "cursor_flag", "wrap_flag") == ["1", "0", "0"]
    shell.resize(60, 15)
    narrow = shell.wait_for("Look at this first", "What is wrong").splitlines()
    assert "UNHEALTHY" in narrow[0], "nothing has scrolled"
    assert f"{ROUTE} holds" in "\n".join(narrow), "what matters most stays"
    assert len(narrow) <= 15
    shell.resize(100, 30)
    assert wait_until(lambda: len(max(shell.text.splitlines(), key=len)) > 60, PATIENCE)
    shell.press("q")
    assert_restored(shell, 1)


@pytest.mark.parametrize(("how", "code"), [("C-c", 1), ("q", 1), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str)
def test_the_terminal_is_as_it_was(shell: Terminal, stage: Stage, how: str | signal.Signals, code: int) -> None:
    watch(shell, stage)
    if isinstance(how, signal.Signals):
        os.kill(shell.command(), how)
    else:
        shell.press(how)
    assert_restored(shell, code)


def test_suspended_and_gone_on(shell: Terminal, stage: Stage) -> None:
    watch(shell, stage)
    shell.press("C-z")
    assert wait_until(lambda: shell.state("alternate_on", "cursor_flag") == ["0", "1"], PATIENCE)
    shell.type("fg")
    shell.wait_for(ROUTE, "q: quit")
    assert shell.state("alternate_on") == ["1"]
    shell.press("q")
    assert_restored(shell, 1)
