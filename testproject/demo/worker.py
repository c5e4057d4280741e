"""A process whose threads hand requests straight to Django's WSGI handler; prints progress as lines of JSON.

Each request raises request_started and request_finished as under a web server, so connections fare alike.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from wsgiref.util import setup_testing_defaults

from django.db import connections

from testproject.harness.load import ERROR_HEADER, Call, run
from testproject.wsgi import application


def calls(clients: int, paths: Iterator[str]) -> list[Call]:
    return [lambda: _request(next(paths)) for _ in range(clients)]


def _request(path: str) -> str | None:
    environ: dict[str, Any] = {"PATH_INFO": path, "HTTP_ACCEPT": "application/json", "HTTP_HOST": "127.0.0.1"}
    setup_testing_defaults(environ)
    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answers.append((status, headers))

    response = application(environ, start_response)
    try:
        b"".join(response)
    finally:
        response.close()
    status, headers = answers[-1]
    if status.startswith("200 "):
        return None
    return dict(headers).get(ERROR_HEADER) or f"HTTP {status}"


def main(threads: int, seconds: float, paths: list[str]) -> None:
    clients = calls(threads, itertools.cycle(paths))
    clients[0]()  # loads the URLconf and what else a first request does
    connections.close_all()  # of this thread, which sends no more
    figures = run(clients, seconds=seconds, on_progress=lambda progress: _say("progress", asdict(progress)))
    _say("figures", asdict(figures))


def _say(kind: str, value: dict[str, Any]) -> None:
    print(json.dumps({kind: value}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
