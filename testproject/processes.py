"""Processes of the throw-away server; run as a script, this file is the server's watchdog.

Only the standard library and no other module of ours: the watchdog must start fast, with nothing installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DONE = b"done"


def children_of(pid: int) -> list[int]:
    found = []
    if Path("/proc/self/stat").exists():
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                # After the last ")", as a command's name may hold anything: state, parent, ...
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    else:
        done = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True)
        found = [int(line.split()[0]) for line in done.stdout.splitlines() if int(line.split()[1]) == pid]
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return Path("/proc/self").exists()


def send_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_tree(pid: int) -> None:
    # Stopped first, so that it neither forks nor restarts a backend while they are being killed.
    send_signal(pid, signal.SIGSTOP)
    victims = [pid, *children_of(pid)]
    for victim in victims:
        send_signal(victim, signal.SIGKILL)
    wait_gone(victims[1:])


def wait_gone(pids: list[int]) -> None:
    """Until then the old backends hold shared memory, and a new postmaster would refuse to start."""
    if not wait_until(lambda: all(map(gone, pids)), timeout=30):
        raise TimeoutError(f"processes of the server did not end: {[pid for pid in pids if not gone(pid)]}")


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def watch(root: Path) -> None:
    """Wait for the owner: it says that it has cleaned up, or it is gone and we clean up."""
    if sys.stdin.buffer.read(len(DONE)) == DONE:  # not to the end, which a child that the owner has forked puts off
        return
    pidfile = root / "data" / "postmaster.pid"
    if pidfile.exists():
        kill_tree(int(pidfile.read_text().split("\n", 1)[0]))
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
