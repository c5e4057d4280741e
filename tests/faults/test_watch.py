"""`dbpool status --watch` and `dbpool runbook` in a real terminal, in front of a site in which somebody is planted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from django_dbpool.reports.culprits import LONG
from testproject.culprits.planting import CULPRITS
from testproject.culprits.run import Stage, running
from testproject.harness.interrupts import Interrupts
from testproject.processes import wait_until
from tests.fixtures.terminal import Terminal, needs_tmux, terminal
from tests.fixtures.workers import PATIENCE

pytestmark = [pytest.mark.ci, pytest.mark.alone, needs_tmux]

ROUTE = "GET /invoices/<int:pk>/pay/"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A site whose visitors wait for those who pay, who are named whether somebody waits at that moment or not."""
    with Interrupts() as interrupts, running(CULPRITS["view"], interrupts) as found:
        assert wait_until(lambda: any(each["oldest"] > LONG for each in found_by(found)), 3 * PATIENCE)
        yield found


@contextmanager
def shell_of() -> Iterator[Terminal]:
    # Not tmp_path, whose name is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="dbp") as directory, terminal(Path(directory), os.environ) as shell:
        yield shell


@pytest.fixture
def shell() -> Iterator[Terminal]:
    with shell_of() as shell:
        yield shell


def watch(shell: Terminal, stage: Stage, *options: str) -> str:
    shell.type(stage.command, "dbpool", "status", "--watch", *options)
    return shell.wait_for(f"{ROUTE} holds", "Who holds connections", "q: quit")


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
    watch(shell, stage)
    text = shell.wait_for("it waits for something that is not")
    top = text.partition("Who holds connections")[0]
    assert re.match(" (UNHEALTHY|DEGRADED) ", text)
    assert "s ago" in text.splitlines()[0]
    assert f"{ROUTE} holds" in top
    assert re.search(r"\x1b\[[0-9;]*4[13]m (UNHEALTHY|DEGRADED) ", shell.codes), "on red or yellow"
    assert shell.state("alternate_on", "cursor_flag", "wrap_flag") == ["1", "0", "0"]
    shell.resize(60, 15)
    narrow = shell.wait_for("Look at this first", "What is wrong").splitlines()
    assert re.match(" (UNHEALTHY|DEGRADED) ", narrow[0]), "nothing has scrolled"
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


def sockets_of(process: int) -> list[str]:
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return [each for each in found if each.startswith("socket:")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc to look into")
def test_no_connection_while_it_sleeps(shell: Terminal, stage: Stage) -> None:
    watch(shell, stage, "3600")
    assert wait_until(lambda: not sockets_of(shell.command()), PATIENCE)
    shell.wait_for(" 1 s ago")
    shell.press("Space")
    shell.wait_for(" 0 s ago")
    assert wait_until(lambda: not sockets_of(shell.command()), PATIENCE)
    shell.press("q")
    assert_restored(shell, 1)


def test_database_goes_away_and_comes_back(shell: Terminal) -> None:
    """A frozen one makes what is shown old, and it says so; without one the processes of this host are asked."""
    with Interrupts() as interrupts, running(CULPRITS["view"], interrupts) as stage:  # it is of no use to others
        watch(shell, stage, "0.5")
        stage.server.freeze()
        try:
            shell.wait_for("this host only", "can't be read", ROUTE)
        finally:
            stage.server.thaw()
        shell.wait_for("fleet: ")
        stage.server.kill()
        try:
            text = shell.wait_for("this host only", "can't be read")
            assert "Traceback" not in text
        finally:
            stage.server.start()
        shell.wait_for("fleet: ")
        shell.wait_without("this host only")
        shell.press("q")
        assert wait_until(lambda: shell.state("alternate_on") == ["0"], PATIENCE)


NAMED = {
    "view": (f"1. {ROUTE} holds", "testproject/culprits/views.py:", " in pay"),
    "threads": ("1. thread follow_prices() holds", "testproject/culprits/views.py:", " in follow_prices"),
    "stranger": ("application 'nightly-export'", "wait", "for its locks"),
}


@pytest.mark.parametrize("name", NAMED)
def test_runbook_names_it_and_ends_it(name: str) -> None:
    """What it prints can be typed."""
    with Interrupts() as interrupts, running(CULPRITS[name], interrupts) as stage, shell_of() as shell:
        assert wait_until(lambda: is_trouble(stage), 3 * PATIENCE)
        shell.type(stage.command, "dbpool", "runbook")
        text = shell.wait_for("ready>", "What is wrong", "docs/runbook.md#")
        assert all(each in text for each in NAMED[name]), text
        commands = re.findall(r"manage.py (dbpool terminate --using .*)", text)
        assert len(commands) == 1, text
        (command,) = commands
        shell.line(f"clear; {stage.command} {command}")
        shell.wait_for("[y/N]")
        shell.line("y")
        shell.wait_for("done")
        # Visitors that waited for a connection meanwhile have begun to pay.
        assert wait_until(lambda: all(end(stage, each) for each in found_by(stage)), 2 * PATIENCE)
        assert not stage.is_stuck()


def is_trouble(stage: Stage) -> bool:
    """Somebody is named, and for long enough that something is wrong."""
    found = json.loads(dbpool(stage, "runbook", "--json").stdout)
    return bool(found["culprits"] and found["problems"])


def found_by(stage: Stage) -> list[dict[str, Any]]:
    found = json.loads(dbpool(stage, "runbook", "--json").stdout)["culprits"]
    return list(found)


def end(stage: Stage, culprit: dict[str, Any]) -> bool:
    """False, for who has to be looked for again."""
    dbpool(stage, *culprit["commands"][0].split()[2:], "--yes")
    return False


def test_blocks_where_there_is_no_terminal(stage: Stage) -> None:
    """One after the other, for a file or a pipe; SIGTERM ends it."""
    command = [str(stage.command), "dbpool", "status", "--watch", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        blocks: list[list[str]] = [[]]
        for line in process.stdout:
            blocks[-1].append(line)
            if line.startswith("-----"):
                blocks.append([])
            if len(blocks) == 3:
                break
        process.terminate()
        rest = process.stdout.read()
        assert process.wait(PATIENCE) == 143
    for block in blocks[:2]:
        assert any(" web)" in line for line in block)
        assert "\x1b" not in "".join(block)
    assert "Traceback" not in rest


def dbpool(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([stage.command, "dbpool", *arguments], capture_output=True, text=True, timeout=60)


def test_a_reader_that_has_seen_enough(stage: Stage) -> None:
    command = f"{stage.command} dbpool status --watch 0.5 | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""
