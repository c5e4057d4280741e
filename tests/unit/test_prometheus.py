"""The Prometheus exporter on numbers made by hand: alone, and as one of several processes that share a directory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import RequestFactory
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from django_dbpool.contrib import gunicorn, prometheus
from django_dbpool.contrib.prometheus import PoolCollector, checks, directory, metrics, register, shared, unregister
from django_dbpool.contrib.prometheus.shared import SharedFiles
from django_dbpool.core import reporter
from django_dbpool.errors import PoolError
from django_dbpool.pool.measures import Measures
from tests.faults.helpers import PATIENCE, Child, Task
from tests.fixtures.readings import histogram, reading

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

BUSY: dict[str, Any] = {
    "pool": {"in_use": 3, "idle": 2, "opening": 1, "waiting": 4, "min_size": 1},
    "leases": 12,
    "statements": 30,
    "wait": histogram(*[0.0005] * 9, 0.001, 0.2, 70),
    "use": histogram(0.02, 0.02, 6),
    "connect": histogram(0.03),
    "opened": 6,
    "closed_by": {"idle": 1, "new reason": 2},
    "failed": 2,
    "refused": {"PoolExhausted": 3, "Another": 1},
    "retried": {"read": 5},
    "overdue": 11,
    "lost": 1,
    "lost_expected": 7,
    "slow": 8,
    "repeated": 9,
    "circuit": "half-open",
}


def samples(collector: Any) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found["django_dbpool_" + name, frozenset({"alias": "default", **labels}.items())]


def test_every_number() -> None:
    found = samples(PoolCollector(lambda: [reading(**BUSY)]))
    assert [value(found, "connections", state=state) for state in ("used", "idle", "opening")] == [3, 2, 1]
    assert [value(found, name) for name in ("connections_max", "connections_min", "waiting")] == [10, 1, 4]
    circuit = {state: value(found, "circuit_state", state=state) for state in ("closed", "half-open", "open")}
    assert circuit == {"closed": 0, "half-open": 1, "open": 0}
    counters = ("leases", "statements", "connections_opened", "connections_failed")
    assert [value(found, f"{name}_total") for name in counters] == [12, 30, 6, 2]
    closed = [value(found, "connections_closed_total", reason=reason) for reason in ("idle", "new reason", "lost")]
    assert closed == [1, 2, 0]
    others = ("timeouts", "statements_slow", "statements_repeated", "overdue")
    assert [value(found, f"{name}_total") for name in others] == [3, 8, 9, 11]
    assert [value(found, "retried_total", what=what) for what in ("connect", "read", "block")] == [0, 5, 0]
    assert [value(found, "connections_lost_total", expected=each) for each in ("false", "true")] == [1, 7]
    assert [value(found, "refused_total", error=each) for each in ("PoolExhausted", "CircuitOpen")] == [3, 0]
    assert value(found, "refused_total", error="Another") == 1
    assert [value(found, f"{name}_seconds_count") for name in ("acquire", "hold", "connect")] == [12, 3, 1]
    assert value(found, "hold_seconds_sum") == pytest.approx(6.04)
    buckets = {bound: value(found, "acquire_seconds_bucket", le=bound) for bound in ("0.001", "0.1", "10.0", "+Inf")}
    assert buckets == {"0.001": 10, "0.1": 10, "10.0": 11, "+Inf": 12}


def test_errors_that_begin_as_zero_exist() -> None:
    names = {kind.__name__ for kind in PoolError.__subclasses__()} | {"PoolOverloaded"}
    assert set(prometheus.families.REFUSALS) <= names


# -- several processes ---------------------------------------------------------------------------------------------


class Fleet:
    """Processes that share a directory, all of them in this one: prometheus_client is told which is at work."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid = 1
        self.readings: list[Measures] = []
        self._files: dict[int, SharedFiles] = {}

    def write(self, pid: int, *readings: Measures) -> None:
        """Process ``pid`` writes these numbers."""
        self.pid, self.readings = pid, list(readings)
        # Of a process that begins, not of one that was forked from another: that has the other's values.
        files = self._files.setdefault(pid, SharedFiles(lambda: self.readings))
        assert files.write()

    def end(self, pid: int) -> None:
        """So that the next one of that number is another process."""
        del self._files[pid]

    def seen(self) -> Samples:
        return samples(MultiProcessCollector(None, str(self.directory)))


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    fleet = Fleet(tmp_path)
    kind = values.MultiProcessValue(lambda: fleet.pid)
    monkeypatch.setattr(values, "ValueClass", kind)
    yield fleet
    kind.close_all_files()


def test_shared_is_as_alone(several: Fleet) -> None:
    """The same names, labels and numbers, whichever way a process is asked."""
    several.write(1, reading(**BUSY), reading("other", leases=1))
    assert several.seen() == samples(PoolCollector(lambda: several.readings))


def test_processes_add_up(several: Fleet) -> None:
    for _ in range(3):  # what is there already is not added again
        several.write(1, reading(**BUSY))
    several.write(2, reading(**BUSY))
    several.write(2, reading(**{**BUSY, "leases": 13, "wait": histogram(*[0.0005] * 9, 0.001, 0.2, 0.2, 70)}))
    found = several.seen()
    assert value(found, "leases_total") == 25
    assert value(found, "acquire_seconds_count") == 25
    assert value(found, "acquire_seconds_bucket", le="0.5") == 23
    assert value(found, "acquire_seconds_sum") == pytest.approx(2 * BUSY["wait"].total + 0.2)
    assert value(found, "connections", state="used") == 6
    assert value(found, "connections_max") == 20
    assert value(found, "circuit_state", state="half-open") == 2


def test_the_dead_have_worked_but_hold_nothing(several: Fleet) -> None:
    several.write(1, reading(**BUSY))
    several.write(2, reading(**BUSY))
    gunicorn.child_exit(None, type("Worker", (), {"pid": 2}))
    found = several.seen()
    assert value(found, "leases_total") == 24
    assert value(found, "connections_max") == 10
    mark_process_dead(1, str(several.directory))
    assert "django_dbpool_connections_max" not in {name for name, _ in several.seen()}


def test_closed_pool_has_nothing(several: Fleet) -> None:
    """So a process that ends well takes itself out, also where nobody calls mark_process_dead()."""
    several.write(1, reading(**BUSY))
    several.write(1, reading(**{**BUSY, "pool": None, "snapshot": None, "circuit": "closed"}))
    gauges = ("connections", "connections_max", "connections_min", "waiting", "circuit_state")
    names = {f"django_dbpool_{name}" for name in gauges}
    assert {number for (name, _), number in several.seen().items() if name in names} == {0}
    assert value(several.seen(), "leases_total") == 12


def test_pid_is_used_again(several: Fleet) -> None:
    several.write(1, reading(**BUSY))
    several.end(1)
    several.write(2, reading(leases=1))
    several.write(1, reading(leases=5))
    assert value(several.seen(), "leases_total") == 12 + 1 + 5


def test_numbers_never_go_back(several: Fleet) -> None:
    """A counter that did would be taken for one that began anew, and all of it for new."""
    several.write(1, reading(leases=10))
    several.write(1, reading(leases=8))
    assert value(several.seen(), "leases_total") == 10
    several.write(1, reading(leases=11))
    assert value(several.seen(), "leases_total") == 11


def test_new_error_is_a_new_series(several: Fleet) -> None:
    several.write(1, reading())
    assert value(several.seen(), "refused_total", error="PoolExhausted") == 0
    several.write(1, reading(refused={"SomethingNew": 2}))
    assert value(several.seen(), "refused_total", error="SomethingNew") == 2


def test_forked_child_begins_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", kind := values.MultiProcessValue())
    count = 10
    files = SharedFiles(lambda: [reading(leases=count)])
    files.write()
    try:
        count = 4  # of the child's own
        Child(files.write).result()
        count = 12
        files.write()
    finally:
        kind.close_all_files()
    found = samples(MultiProcessCollector(None, str(tmp_path)))
    assert value(found, "leases_total") == 16


def test_fork_waits_for_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """prometheus_client's lock, taken by a thread that the child doesn't have, would be taken there for ever."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", kind := values.MultiProcessValue())
    files = SharedFiles(lambda: [reading(leases=leases)])
    leases = 1
    files.write()
    of_leases = files._values["django_dbpool_leases_total", ("default",)]
    inside, forking, original = threading.Event(), threading.Event(), of_leases._file.write_value

    def write_value(*arguments: Any) -> None:
        inside.set()
        forking.wait(PATIENCE)
        original(*arguments)

    monkeypatch.setattr(of_leases._file, "write_value", write_value)
    leases = 2
    writer = threading.Thread(target=files.write)
    writer.start()
    inside.wait(PATIENCE)
    os.register_at_fork(before=forking.set)  # runs before the product's own, which was there before
    try:
        assert Child(files.write).result() is True
    finally:
        writer.join()
        kind.close_all_files()


def test_who_writes_is_not_waited_for_without_end(several: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PATIENCE", 0.01)
    with shared._writing:
        assert SharedFiles(list).write() is False
        shared._before_fork()
        shared._in_parent()
    assert SharedFiles(list).write() is True


def test_two_threads_that_fork_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits in vain: it neither gives back what it has not, nor keeps the first one from doing so."""
    monkeypatch.setattr(shared, "PATIENCE", 0.01)

    def second() -> None:
        shared._before_fork()
        assert shared._writing.locked()
        shared._in_parent()
        assert shared._writing.locked()

    shared._before_fork()
    try:
        Task(second).result()
    finally:
        shared._in_parent()
    assert not shared._writing.locked()


# -- what users call -----------------------------------------------------------------------------------------------


@pytest.fixture
def registered() -> Iterator[CollectorRegistry]:
    """With the default registry too, which a view shows."""
    register()
    registry = CollectorRegistry()
    register(registry)
    yield registry
    unregister(registry)
    unregister()


def test_register_twice(registered: CollectorRegistry) -> None:
    register(registered)
    register()
    for registry in (registered, REGISTRY):
        assert generate_latest(registry).count(b"# TYPE django_dbpool_leases_total") == 1


def test_unregister(registered: CollectorRegistry) -> None:
    unregister(registered)
    unregister(registered)
    assert b"django_dbpool" not in generate_latest(registered)
    register(registered)
    assert b"django_dbpool" in generate_latest(registered)


def test_alone_nothing_is_done_from_time_to_time(registered: CollectorRegistry) -> None:
    assert prometheus.JOB not in reporter._jobs


def ask(method: str = "get", **headers: Any) -> Any:
    request = getattr(RequestFactory(), method)("/metrics/", **headers)
    return metrics(request)


def test_view(registered: CollectorRegistry) -> None:
    answer = ask()
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=")
    assert "no-store" in answer["Cache-Control"]
    assert b"# TYPE django_dbpool_acquire_seconds histogram" in answer.content
    assert b"python_info" in answer.content
    assert ask("post").status_code == 405
    assert "default" in metrics._non_atomic_requests  # no transaction around it


def test_view_speaks_openmetrics(registered: CollectorRegistry) -> None:
    answer = ask(HTTP_ACCEPT="application/openmetrics-text;version=1.0.0")
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert answer.content.endswith(b"# EOF\n")


def test_view_shows_all_processes(several: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    several.write(7, reading(leases=10))
    several.pid = 1
    monkeypatch.setattr(prometheus, "_shared", SharedFiles(lambda: [reading(leases=2)]))
    assert b'django_dbpool_leases_total{alias="default"} 12.0' in ask().content


def test_job_where_a_directory_is_shared(several: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while nobody leases: connections are closed then, too."""
    jobs: dict[str, Any] = {}
    monkeypatch.setattr(reporter, "register", lambda name, job, **options: jobs.update({name: options}))
    monkeypatch.setattr(reporter, "unregister", jobs.pop)
    monkeypatch.setattr(prometheus, "_shared", None)
    registry = CollectorRegistry()
    register(registry)
    assert jobs == {prometheus.JOB: {"interval": 1.0, "idle": True, "last": True}}
    unregister(registry)
    assert jobs == {}


def said() -> list[Any]:
    return [message for message in run_checks(tags=["dbpool"]) if message.id == "dbpool.W047"]


def test_check_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_directory() == []
    for variable in directory.VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(tmp_path))
            assert said() == []
            # prometheus_client would write into the working directory, and refuse to read there.
            for unusable in (str(tmp_path / "missing"), __file__, ""):
                patch.setenv(variable, unusable)
                (message,) = said()
                assert variable in message.msg
                assert "not a directory that this process may read and write" in message.msg
                assert "Make it before the server starts" in message.hint
                assert not message.is_serious(), "manage.py migrate goes on without metrics"


def test_what_is_counted_meanwhile_is_written_once_it_can_be(several: Fleet, caplog: Any) -> None:
    """A file that can't be opened, as on a full disk; and then it can."""
    blocked = several.directory / "counter_1.db"
    blocked.mkdir()
    files = SharedFiles(lambda: [reading(leases=leases)])
    leases = 2
    assert not files.write()
    leases = 3
    assert not files.write()
    (record,) = caplog.records
    assert record.name == "django_dbpool.prometheus"
    assert "PROMETHEUS_MULTIPROC_DIR can't be written to (Is a directory): no metrics" in record.message
    assert "Make it before the server starts" in record.message
    blocked.rmdir()
    assert files.write()
    assert value(several.seen(), "leases_total") == 3


def test_child_whose_files_cannot_be_opened(several: Fleet) -> None:
    """prometheus_client leaves it the values of its parent, whose files are closed."""
    several.write(1, reading(leases=2))
    files, blocked = several._files[1], several.directory / "counter_2.db"
    blocked.mkdir()
    several.pid = 2
    files._written.clear()  # as in a child, which begins with nothing
    several.readings = [reading(leases=5)]
    assert [files.write() for _ in range(2)] == [False, False]
    blocked.rmdir()
    assert files.write()
    assert value(several.seen(), "leases_total") == 2 + 5


def test_child_exit_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = type("Worker", (), {"pid": 1})
    gunicorn.child_exit(None, worker)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "missing"))
    gunicorn.child_exit(None, worker)
