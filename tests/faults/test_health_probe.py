"""The probe: one question for all, one connection, one thread, whatever becomes of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Any

import psycopg
import pytest

from django_dbpool.pool import dedicated, probing, question
from django_dbpool.pool.entry import PoolEntry
from django_dbpool.pool.probing import Probe
from django_dbpool.pool.question import Answer
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Child, Clock, Task

NAME = "probed"


class Connecting:
    """Connects; waits where it is told to, and does as it is told instead."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.attempts = 0
        self.begun = threading.Event()
        self.held = threading.Event()
        self.held.set()
        self.instead: Callable[[], Any] | None = None

    def __call__(self) -> psycopg.Connection[Any]:
        self.attempts += 1
        self.begun.set()
        assert self.held.wait(PATIENCE)
        if self.instead is not None:
            self.instead()
        return psycopg.connect(self.server.dsn, autocommit=True, application_name=NAME)


MakeProbe = Callable[..., Probe]


@pytest.fixture
def connecting(session_server: Server) -> Connecting:
    return Connecting(session_server)


@pytest.fixture
def make_probe(connecting: Connecting) -> Iterator[MakeProbe]:
    made: list[Probe] = []

    def make(**settings: Any) -> Probe:
        made.append(Probe(NAME, connecting, **settings))
        return made[-1]

    yield make
    connecting.held.set()
    for probe in made:
        probe.close(PATIENCE)
    assert wait_until(lambda: not threads(), PATIENCE)
    assert NAME not in dedicated.dedicated_backends()


@pytest.fixture
def observer(session_server: Server) -> Iterator[psycopg.Connection[Any]]:
    with session_server.connect(application_name="observer") as connection:
        yield connection


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"dbpool-health-{NAME}"]


def backends(observer: psycopg.Connection[Any]) -> list[int]:
    rows = observer.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [NAME])
    return [pid for (pid,) in rows]


def test_many_callers_are_one_question(make_probe: MakeProbe, connecting: Connecting) -> None:
    probe = make_probe()
    connecting.held.clear()
    together = threading.Barrier(64)

    def ask() -> Answer:
        together.wait(PATIENCE)
        return probe.wait(PATIENCE)

    tasks = [Task(ask) for _ in range(64)]
    assert connecting.begun.wait(PATIENCE)
    connecting.held.set()
    answers = {task.result() for task in tasks}
    assert [answer.code for answer in answers] == ["ok"], "all have the same one"
    assert (probe.question.asked, connecting.attempts, len(threads())) == (1, 1, 1)


def test_an_answer_is_good_for_a_second(make_probe: MakeProbe) -> None:
    clock = Clock()
    probe = make_probe(clock=clock)
    first = probe.wait(PATIENCE)
    clock.advance(0.9)
    assert probe.wait(PATIENCE) is first
    assert probe.age(first) == pytest.approx(0.9)
    clock.advance(0.2)
    assert probe.wait(PATIENCE) is not first
    assert probe.question.asked == 2
    assert probe.wait(PATIENCE, fresh=True).ok
    assert probe.question.asked == 3


def test_one_thread_hangs_however_often_it_is_asked(make_probe: MakeProbe, connecting: Connecting) -> None:
    clock = Clock()
    probe = make_probe(clock=clock, patient=0.01)
    connecting.held.clear()
    for _ in range(20):
        assert probe.wait(0.01).code == "timeout"
        assert isinstance(probe.answer(), Answer), "nobody else waits within the second"
        clock.advance(1.1)
    assert (connecting.attempts, len(threads())) == (1, 1)
    connecting.held.set()
    assert probe.wait(PATIENCE).ok
    assert connecting.attempts == 1


def test_an_answer_that_comes_late_is_told_at_once(make_probe: MakeProbe, connecting: Connecting) -> None:
    """Not when the second has passed in which callers hear of the time-out."""
    clock = Clock()
    probe = make_probe(clock=clock, patient=0.01)
    connecting.held.clear()
    flight = probe.answer()
    assert isinstance(flight, Future)
    assert probe.wait(0.01).code == "timeout"
    connecting.held.set()
    assert flight.result(PATIENCE).ok
    assert probe.wait(0).ok
    assert probe.question.asked == 1


def test_who_is_in_a_hurry_says_nothing_to_the_others(make_probe: MakeProbe, connecting: Connecting) -> None:
    """Else a look with a short limit would take a process out of service whose server needs a moment to answer."""
    probe = make_probe()
    connecting.held.clear()
    assert probe.wait(0.0).code == "timeout"
    flight = probe.answer()
    assert isinstance(flight, Future), "readiness waits for it"
    connecting.held.set()
    assert flight.result(PATIENCE).ok
    assert probe.question.asked == 1


def test_a_thread_that_cannot_start(make_probe: MakeProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    probe = make_probe(clock=clock)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert probe.wait(PATIENCE).code == "no_thread"
    clock.advance(1.1)
    assert probe.wait(PATIENCE).ok


def test_an_interrupt_while_the_thread_starts(make_probe: MakeProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = make_probe()

    def interrupt(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            probe.wait(PATIENCE)
    assert probe.wait(PATIENCE, fresh=True).ok


def test_a_thread_that_starts_after_all(make_probe: MakeProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt was raised before it could say that it runs. Two would use one connection at the same time."""
    probe = make_probe()
    started: list[threading.Thread] = []

    def interrupt(thread: threading.Thread) -> None:
        started.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            probe.wait(PATIENCE)
    assert probe.wait(PATIENCE, fresh=True).ok
    (late,) = started
    late.start()
    late.join(PATIENCE)
    assert not late.is_alive()
    assert probe.wait(PATIENCE, fresh=True).ok
    assert len(threads()) == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt], ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies(make_probe: MakeProbe, connecting: Connecting, error: type[BaseException]) -> None:
    """In the middle of a question: who waits is told, and the next question is asked by another thread."""
    probe = make_probe()

    def die() -> None:
        raise error

    connecting.instead = die
    assert probe.wait(PATIENCE).code == "unreachable"
    connecting.instead = None
    assert probe.wait(PATIENCE, fresh=True).ok


def test_a_thread_that_ends_without_a_word(make_probe: MakeProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = make_probe()
    with monkeypatch.context() as patch:
        patch.setattr(Probe, "_run", lambda self: None)
        flight = probe.answer()
        assert isinstance(flight, Future)
        thread = probe._thread
        assert thread is not None
        thread.join(PATIENCE)  # it counts as alive for a moment after it has left the list of threads
    assert probe.wait(PATIENCE, fresh=True).ok
    assert flight.result(PATIENCE).code == "no_thread", "who has been waiting is told"


def test_the_end_of_interest(make_probe: MakeProbe, observer: psycopg.Connection[Any]) -> None:
    """Nobody asks any more: neither connection nor thread is left, until somebody does."""
    probe = make_probe(linger=0.05)
    for _ in range(3):
        assert probe.wait(PATIENCE, fresh=True).ok
        assert wait_until(lambda: not threads(), PATIENCE)
        assert wait_until(lambda: not backends(observer), PATIENCE)
        assert NAME not in dedicated.dedicated_backends()


def test_questions_at_the_end_of_interest(make_probe: MakeProbe) -> None:
    """Each comes when the thread is about to end, or has just ended."""
    probe = make_probe(linger=0.0)

    def ask() -> set[str]:
        return {probe.wait(PATIENCE, fresh=True).code for _ in range(50)}

    assert [task.result() for task in [Task(ask) for _ in range(3)]] == [{"ok"}] * 3


def test_one_connection_for_many_questions(make_probe: MakeProbe, observer: psycopg.Connection[Any]) -> None:
    clock = Clock()
    probe = make_probe(clock=clock)
    for _ in range(10):
        assert probe.wait(PATIENCE, fresh=True).ok
    (pid,) = backends(observer)
    assert dedicated.dedicated_backends()[NAME] == [pid], "the fleet knows it for ours"
    assert not dedicated.dedicated_holders(NAME), "and names nobody who holds it"
    clock.advance(question.LIFETIME)
    assert probe.wait(PATIENCE).ok
    assert wait_until(lambda: backends(observer) not in ([], [pid]), PATIENCE)


@pytest.mark.parametrize("seen", [True, False], ids=["before", "while asking"])
def test_a_connection_that_was_killed_says_nothing_of_the_server(
    make_probe: MakeProbe, observer: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, *, seen: bool
) -> None:
    probe = make_probe()
    assert probe.wait(PATIENCE).ok
    if not seen:
        monkeypatch.setattr(PoolEntry, "suspicious", lambda self: False)
    (pid,) = backends(observer)
    observer.execute("SELECT pg_terminate_backend(%s)", [pid])
    assert probe.wait(PATIENCE, fresh=True).ok
    assert pid not in backends(observer)


def test_refused_credentials_are_not_repeated(make_probe: MakeProbe, connecting: Connecting) -> None:
    clock = Clock()
    let_in = [1]
    probe = make_probe(clock=clock, let_in=lambda: let_in[0])

    def refuse() -> None:
        raise psycopg.OperationalError('FATAL:  role "nobody" does not exist')

    connecting.instead = refuse
    answer = probe.wait(PATIENCE)
    assert (answer.code, answer.sqlstate) == ("refused", "28000")
    for _ in range(5):
        clock.advance(10)
        assert probe.wait(PATIENCE) is answer
    assert connecting.attempts == 1
    connecting.instead = None
    let_in[0] += 1
    assert probe.wait(PATIENCE).ok, "somebody was let in"


def test_refused_credentials_are_tried_again_after_a_pause(make_probe: MakeProbe, connecting: Connecting) -> None:
    clock = Clock()
    probe = make_probe(clock=clock)

    def refuse() -> None:
        raise psycopg.OperationalError('FATAL:  password authentication failed for user "shop"')

    connecting.instead = refuse
    assert probe.wait(PATIENCE).code == "refused"
    clock.advance(probing.REFUSED_PAUSE)
    assert probe.wait(PATIENCE).code == "refused"
    assert connecting.attempts == 2


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("connection refused", "unreachable"),
        ("FATAL:  the database system is starting up", "starting"),
        ("FATAL:  sorry, too many clients already", "full"),
        ('FATAL:  database "shop" does not exist', "refused"),
    ],
)
def test_what_the_driver_says(make_probe: MakeProbe, connecting: Connecting, message: str, code: str) -> None:
    def refuse() -> None:
        raise psycopg.OperationalError(message)

    connecting.instead = refuse
    assert make_probe().wait(PATIENCE).code == code


def test_code_of_others_that_fails(
    make_probe: MakeProbe, connecting: Connecting, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise LookupError("of an engine that derives")

    connecting.instead = fail
    probe = make_probe()
    for _ in range(3):
        assert probe.wait(PATIENCE, fresh=True).code == "misconfigured"
    assert [record.name for record in caplog.records if record.exc_info] == ["django_dbpool.health"], "once a minute"


def test_closing_while_it_connects(make_probe: MakeProbe, connecting: Connecting) -> None:
    probe = make_probe()
    connecting.held.clear()
    task = Task(probe.wait, PATIENCE)
    assert connecting.begun.wait(PATIENCE)
    began = monotonic()
    probe.close(0.05)
    assert monotonic() - began < PATIENCE / 2, "who closes is not kept"
    connecting.held.set()
    task.result()
    assert probe.wait(PATIENCE, fresh=True).code == "closed"
    assert wait_until(lambda: not threads(), PATIENCE)


def test_fork(make_probe: MakeProbe, observer: psycopg.Connection[Any]) -> None:
    """The child asks on a connection of its own, and its end leaves the parent's alone."""
    kept = probing.probe_of(NAME, make_probe)
    assert kept.wait(PATIENCE).ok
    (pid,) = backends(observer)

    def ask() -> tuple[str, list[int]]:
        probe = probing.probe_of(NAME, make_probe)
        answer = probe.wait(PATIENCE)
        pids = dedicated.dedicated_backends()[NAME]
        probe.close(PATIENCE)
        return answer.code, pids

    try:
        code, pids = Child(ask).result()
        assert code == "ok"
        assert len(pids) == 1
        assert pids != [pid]
        assert kept.wait(PATIENCE, fresh=True).ok
        assert dedicated.dedicated_backends()[NAME] == [pid]
    finally:
        probing.close(NAME)


def test_fork_while_it_hangs(make_probe: MakeProbe, connecting: Connecting) -> None:
    """What hangs in the parent, and the lock of whoever was asking, mean nothing in the child."""
    kept = probing.probe_of(NAME, make_probe)
    connecting.held.clear()
    assert kept.wait(0.01).code == "timeout"

    def ask() -> tuple[str, int]:
        connecting.held.set()
        probe = probing.probe_of(NAME, make_probe)
        code = probe.wait(PATIENCE).code
        probe.close(PATIENCE)
        return code, os.getppid()

    try:
        with kept._changed:  # as if another thread had been in the middle of it
            child = Child(ask)
        assert child.result() == ("ok", os.getpid())
    finally:
        connecting.held.set()
        probing.close(NAME, timeout=PATIENCE)
