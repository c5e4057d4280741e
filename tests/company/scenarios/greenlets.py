"""200 greenlets on four connections; some are killed, some time out, waiting as well as in a statement."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import time  # noqa: E402

import django  # noqa: E402

django.setup()

import gevent  # noqa: E402
import psycopg  # noqa: E402
from django.db import connection, connections, transaction  # noqa: E402
from gevent.event import Event  # noqa: E402

from tests.company.watch import leases_left, report  # noqa: E402

SIZE = 4
CONNINFO = {key: connection.get_connection_params()[key] for key in ("host", "port", "user", "dbname")}
most = 0
ticks = 0


def sessions(observer: psycopg.Connection) -> int:
    row = observer.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid() "
        "AND backend_type = 'client backend'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def watch() -> None:
    """Another greenlet of the same hub: it runs while others wait for the server, or nothing is cooperative."""
    global most, ticks
    with psycopg.connect(**CONNINFO, autocommit=True) as observer:
        while True:
            most = max(most, sessions(observer))
            ticks += 1
            gevent.sleep(0.005)


def work(number: int) -> int:
    """A unit of work, ended as a request is."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.01), %s", [number])
            cursor.fetchone()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.005)")
            cursor.execute("SELECT %s", [number])
            return int(cursor.fetchone()[0])
    finally:
        connections.close_all()


def sleeper(seconds: float, started: Event | None = None) -> None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            if started is not None:
                started.set()
            cursor.execute("SELECT pg_sleep(%s)", [seconds])
    finally:
        connections.close_all()


def timed_out() -> bool:
    try:
        with gevent.Timeout(0.2):
            sleeper(30)
    except gevent.Timeout:
        return True
    return False


def interrupted() -> tuple[int, int]:
    """Kill holders in a statement and waiters in the queue; how many timed out, how many were killed."""
    begun = [Event() for _ in range(SIZE)]
    holding = [gevent.spawn(sleeper, 30, event) for event in begun]
    for event in begun:
        assert event.wait(10)
    waiting = [gevent.spawn(sleeper, 30) for _ in range(10)]
    late = [gevent.spawn(timed_out) for _ in range(10)]
    while connection.pool.snapshot().waiting < 20:
        gevent.sleep(0.01)
    gevent.joinall(late, timeout=20)
    gevent.killall(waiting + holding, timeout=20)
    return sum(bool(one.value) for one in late), sum(one.dead for one in waiting + holding)


def all_slots_work() -> int:
    """As many greenlets as there are connections, each holding one at the same time."""
    begun = [Event() for _ in range(SIZE)]
    holding = [gevent.spawn(sleeper, 0.3, event) for event in begun]
    held = sum(bool(event.wait(10)) for event in begun)
    gevent.joinall(holding, timeout=20, raise_error=True)
    return held


def switches_while_polling() -> int:
    """How often other greenlets run while an idle connection is looked at, which must not take a turn of the hub."""
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    connection.ensure_connection()
    counter = gevent.spawn(count)
    gevent.sleep(0.01)
    before = turns
    for _ in range(1000):
        connection._entry.poll(0)
    after = turns
    counter.kill()
    connection.close()
    return after - before


switches = switches_while_polling()
watcher = gevent.spawn(watch)
begin = time.monotonic()
done = gevent.joinall([gevent.spawn(work, number) for number in range(200)], timeout=60, raise_error=True)
seconds = time.monotonic() - begin
answers = sorted(greenlet.value for greenlet in done)
timeouts, killed = interrupted()
queued = connection.pool.snapshot().waiting
held = all_slots_work()
left = leases_left()
dropped = gevent.spawn(lambda: connection.cursor().execute("LISTEN something"))  # ends without closing
dropped.join()
deadline = time.monotonic() + 10
while leases_left() and time.monotonic() < deadline:
    gevent.sleep(0.05)
with psycopg.connect(**CONNINFO, autocommit=True) as look:
    running = look.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE query LIKE '%pg_sleep(30%' AND state = 'active' AND pid != pg_backend_pid()"
    )
    still_running = (running.fetchone() or [0])[0]
watcher.kill()
report(
    switches=switches,
    answers=answers == list(range(200)),
    seconds=seconds,
    ticks=ticks,
    most=most,
    timeouts=timeouts,
    killed=killed,
    queued=queued,
    held=held,
    left=left,
    still_running=still_running,
    size=connection.pool.snapshot().size,
)
