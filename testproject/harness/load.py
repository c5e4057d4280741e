"""A closed-loop load: each of N clients sends its next request as soon as it has the answer to the last."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

# Of the test project's friendly error page; see testproject.reports.errors.
ERROR_HEADER = "X-Database-Error"

Call = Callable[[], str | None]
"""One request; returns None if it was answered, else the name of its error."""


@dataclass(frozen=True)
class Figures:
    """What a load has measured; times are of answered requests alone."""

    clients: int
    seconds: float
    ok: int
    errors: dict[str, int]
    p50: float | None
    p95: float | None

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def requests(self) -> int:
        return self.ok + self.failed

    @property
    def rate(self) -> float:
        """Answered requests in a second."""
        return self.ok / self.seconds


@dataclass(frozen=True)
class Progress:
    elapsed: float
    ok: int
    failed: int


@dataclass
class _Client:
    call: Call
    times: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def run(
    clients: list[Call],
    *,
    seconds: float | None = None,
    requests: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Figures:
    """Let all `clients` send requests for `seconds`, or `requests` in all, and return the figures.

    In a load of `seconds`, a request that ends after that time counts only if it failed: its answer would
    favour the engine that leaves the longest tail, but its failure must not be hidden.
    """
    started = time.perf_counter()
    deadline = started + seconds if seconds is not None else None
    budget: Iterator[int] = iter(range(requests)) if requests is not None else itertools.count()
    stop = threading.Event()
    states = [_Client(call) for call in clients]
    threads = [threading.Thread(target=_loop, args=(state, budget, deadline, stop), daemon=True) for state in states]
    try:
        for thread in threads:
            thread.start()
        _wait(threads, lambda: on_progress(_progress(states, started)))
    finally:
        stop.set()
    elapsed = seconds if seconds is not None else time.perf_counter() - started
    return _figures(states, elapsed)


def _loop(client: _Client, budget: Iterator[int], deadline: float | None, stop: threading.Event) -> None:
    # next() on range and count iterators is one step of C code: clients may share one without a lock.
    while not stop.is_set() and (deadline is None or time.perf_counter() < deadline):
        if next(budget, None) is None:
            return
        began = time.perf_counter()
        try:
            error = client.call()
        except Exception as failure:
            error = type(failure).__name__
        ended = time.perf_counter()
        if error is not None:
            client.errors[error] += 1
        elif deadline is None or ended <= deadline:
            client.times.append(ended - began)


def _wait(threads: list[threading.Thread], tick: Callable[[], None], interval: float = 0.25) -> None:
    due = time.perf_counter() + interval
    for thread in threads:
        while thread.is_alive():
            thread.join(max(0.0, due - time.perf_counter()))
            if time.perf_counter() >= due:
                due += interval
                tick()


def _progress(states: list[_Client], started: float) -> Progress:
    return Progress(
        elapsed=time.perf_counter() - started,
        ok=sum(len(state.times) for state in states),
        # A copy made by one C call, since its owner may be adding a name.
        failed=sum(sum(dict(state.errors).values()) for state in states),
    )


def _figures(states: list[_Client], elapsed: float) -> Figures:
    times = sorted(itertools.chain.from_iterable(state.times for state in states))
    errors: Counter[str] = Counter()
    for state in states:
        errors.update(state.errors)
    return Figures(
        clients=len(states),
        seconds=elapsed,
        ok=len(times),
        errors=dict(errors.most_common()),
        p50=quantile(times, 0.5),
        p95=quantile(times, 0.95),
    )


def quantile(ordered: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed."""
    if not ordered:
        return None
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@dataclass(frozen=True)
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class HttpClient:
    """One keep-alive connection to the site."""

    def __init__(self, host: str, port: int, timeout: float = 60) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def get(self, path: str, **headers: str) -> Response:
        reused = self._connection.sock is not None
        try:
            return self._get(path, headers)
        except (http.client.RemoteDisconnected, ConnectionError):
            # A server may close an idle connection just as it is used again; every client repeats a GET then.
            self.close()
            if not reused:
                raise
            return self._get(path, headers)
        except BaseException:
            self.close()  # half-read, it could not be used again
            raise

    def post(self, path: str, body: bytes, **headers: str) -> Response:
        """Never repeated here: the request may have been worked off."""
        try:
            return self._send("POST", path, headers, body)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def _get(self, path: str, headers: dict[str, str]) -> Response:
        return self._send("GET", path, headers)

    def _send(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Response:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())


@contextmanager
def http_calls(host: str, port: int, clients: int, paths: Iterator[str]) -> Iterator[list[Call]]:
    """Yield `clients` that take the paths in turn; an answer other than 200 is an error."""
    # Closed at the end: a web server that stops would wait for their next request.
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(HttpClient(host, port))) for _ in range(clients)]
        yield [partial(_call, client, paths) for client in opened]


def _call(client: HttpClient, paths: Iterator[str]) -> str | None:
    response = client.get(next(paths), Accept="application/json")
    if response.status == 200:
        return None
    return response.headers.get(ERROR_HEADER) or f"HTTP {response.status}"
