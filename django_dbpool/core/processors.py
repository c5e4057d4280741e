"""How busy this machine's processors are."""

from __future__ import annotations

from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = (3, 4)
"""Fields of its first line that are no work: idle, and waiting for disks (``man 5 proc_stat``)."""
_GUEST = 8
"""From here on it is what the fields before have counted already."""


def processor_times() -> tuple[float, float] | None:
    """
    What all processors together have worked since the machine's start, and how much time that was, in one unit. Two of
    them tell how busy they were meanwhile. None where the kernel doesn't say, as on macOS.
    """
    try:
        with _STAT.open() as lines:
            ticks = [float(each) for each in lines.readline().split()[1 : _GUEST + 1]]
    except (OSError, ValueError):
        return None
    total = sum(ticks)
    return total - sum(ticks[number] for number in _IDLE if number < len(ticks)), total
