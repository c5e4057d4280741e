#!/usr/bin/env python
"""Django's command line for the test project."""

import os
import sys
from pathlib import Path


def main() -> None:
    # For a script Python puts its directory first on sys.path: every module would be importable twice.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
