"""Where a version of Django and its tests come from: an interpreter that has it, and that version's sdist."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from pathlib import Path

from testproject.postgres_binaries import binary_sources, has_extension

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"

# Of the suite's own requirements: what the default apps need, and what the whole suite needs to be of use.
# Left out: browsers, caches that must be compiled, GeoIP, formatters.
DEFAULT_EXTRAS = {"tblib", "pyyaml", "jinja2"}
WHOLE_SUITE_EXTRAS = {
    "docutils",
    "bcrypt",
    "argon2-cffi",
    "aiosmtpd",
    "pillow",
    "numpy",
    "pymemcache",
    "redis",
}

PROBE = """
import json, sys, importlib.metadata as m
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
names = ("django", "psycopg", "psycopg-pool", "tblib")
print(json.dumps({"python": sys.version.split()[0], **{name: version(name) for name in names}}))
"""


class SetupFailed(Exception):
    """An environment or the source of Django's tests could not be made."""


@dataclasses.dataclass(frozen=True)
class Environment:
    python: str
    versions: dict[str, str] = dataclasses.field(hash=False)
    tests: Path

    @property
    def django(self) -> str:
        return self.versions["django"]

    @property
    def series(self) -> str:
        return ".".join(self.django.split(".")[:2])

    def __str__(self) -> str:
        shown = {"python": "Python", "django": "Django", "psycopg": "psycopg", "psycopg-pool": "psycopg_pool"}
        return ", ".join(f"{title} {self.versions[name]}" for name, title in shown.items())


def missing_for_gis() -> str:
    """Why Django's gis tests can't run here; empty if they can."""
    if not any(has_extension(bindir, "postgis") for _, bindir, _ in binary_sources()):
        return "no PostgreSQL with PostGIS (apt-get install postgresql-postgis)"
    for name in ("gdal", "geos_c", "proj"):
        if find_library(name) is None:
            return f"no library {name} (apt-get install gdal-bin)"
    return ""


def run(*command: str | os.PathLike[str]) -> str:
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-15:]
        raise SetupFailed("\n".join([f"failed: {' '.join(map(str, command))}", *said]))
    return done.stdout


def environment(python: str, parallel: bool = False) -> Environment:
    versions = json.loads(run(python, "-c", PROBE))
    if not parallel:
        versions.pop("tblib")  # Django's runner sends failures between processes with it
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        raise SetupFailed(f"{python} lacks {', '.join(missing)}")
    return Environment(python, versions, sdist(python, versions["django"]) / "tests")


def sdist(python: str, version: str) -> Path:
    """The unpacked source distribution of one release; pip is told nothing but what to fetch."""
    target = CACHE / "django-sdist" / version
    if (target / "tests" / "runtests.py").exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        options = ("--quiet", "--no-deps", "--no-binary", "django", "--dest", scratch)
        run(python, "-m", "pip", "download", *options, f"django=={version}")
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (unpacked,) = (path for path in Path(scratch).iterdir() if path.is_dir())
        unpacked.rename(target)
    return target


def virtual_environment(series: str, whole_suite: bool, fresh: bool) -> Environment:
    """An environment of its own for the latest release of a series such as 6.0, kept until `fresh`."""
    place = CACHE / "django-venv" / (series + ("-all" if whole_suite else ""))
    python = place / "bin" / "python"
    complete = place / ".complete"
    if fresh or not complete.exists():
        shutil.rmtree(place, ignore_errors=True)
        run(interpreter((3, 12) if int(series.split(".")[0]) >= 6 else (3, 11)), "-m", "venv", place)
        run(python, "-m", "pip", "install", "--quiet", f"django=={series}.*", "psycopg[binary,pool]")
        made = environment(str(python))
        run(python, "-m", "pip", "install", "--quiet", *test_requirements(made.tests, whole_suite))
        complete.touch()
    return environment(str(python))


def test_requirements(tests: Path, whole_suite: bool) -> list[str]:
    wanted = DEFAULT_EXTRAS | (WHOLE_SUITE_EXTRAS if whole_suite else set())
    lines = (tests / "requirements" / "py3.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0].lower() in wanted]


def interpreter(floor: tuple[int, int]) -> str:
    """An interpreter of at least this version that really starts: a shim on PATH may not."""
    if sys.version_info[:2] >= floor:
        return sys.executable
    for candidate in candidates():
        check = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] < {floor})"
        try:
            done = subprocess.run([candidate, "-c", check], check=False, capture_output=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return candidate
    raise SetupFailed(f"no Python >= {floor[0]}.{floor[1]} found")


def candidates() -> Iterator[str]:
    names: Sequence[str] = ("python3.13", "python3.12", "python3.14", "python3")
    yield from filter(None, map(shutil.which, names))
    for name in names:
        yield from map(str, Path.home().glob(f".pyenv/versions/*/bin/{name}"))
