"""Which files are meant."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

# Neither is code of the project. Only below what was asked for: who names a directory of these gets it analysed.
SKIPPED = {"__pycache__", "__pypackages__", "node_modules", "site-packages"}

OnError = Callable[[OSError], None]


def python_files(paths: Sequence[str | Path], exclude: Sequence[str], on_error: OnError) -> Iterator[Path]:
    """Each file once, whatever leads to it. Directories behind symbolic links are followed only if they are named."""
    seen: set[tuple[int, int]] = set()
    for path in paths:
        for found in _below(Path(path), exclude, on_error):
            try:
                status = found.stat()
            except OSError as error:
                on_error(error)
                continue
            # A FIFO called x.py would block whoever opens it.
            if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield found


def _below(path: Path, exclude: Sequence[str], on_error: OnError) -> Iterator[Path]:
    if not path.is_dir():
        if not _excluded(path, path.name, exclude):
            yield path
        return
    for folder, folders, names in os.walk(path, onerror=on_error):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in SKIPPED
            and not (here / name / "pyvenv.cfg").exists()
            and not _excluded(here / name, str((here / name).relative_to(path)), exclude)
        )
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("."):
                found = here / name
                if not _excluded(found, str(found.relative_to(path)), exclude):
                    yield found


def _excluded(path: Path, relative: str, exclude: Sequence[str]) -> bool:
    """A pattern means a name (``migrations``), a path below what is audited (``shop/tests*``), or a whole path."""
    candidates = (path.name, relative, str(path), str(path.absolute()))
    for pattern in exclude:
        cleaned = pattern.rstrip("/").removeprefix("./")
        if any(fnmatch(candidate, cleaned) for candidate in candidates):
            return True
        # tests/* and */tests/* mean the same to those who write them.
        if fnmatch("/" + relative, "*/" + cleaned.removeprefix("*/")):
            return True
    return False
