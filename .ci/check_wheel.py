"""Build the wheel and fail unless it holds the package django_dbpool and its metadata, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    with tempfile.TemporaryDirectory() as target:
        # The build backend is called directly: no isolated environment, hence no network.
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target]
        done = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(done.stdout)
            return done.returncode
        (wheel,) = Path(target).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            packed = set(archive.namelist())
    metadata = "-".join(wheel.name.split("-")[:2]) + ".dist-info/"
    package = {name for name in packed if name.startswith("django_dbpool/")}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "django_dbpool").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    faults = [f"not part of the package: {n}" for n in packed - package if not n.startswith(metadata)]
    faults += [f"missing: {name}" for name in wanted - package]
    print(f"{wheel.name}: {len(package)} files of django_dbpool")
    print(*sorted(faults), sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
