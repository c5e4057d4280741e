"""The runnable project as a user meets it: real web servers, real processes, the command line."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from decimal import Decimal
from http.cookiejar import CookieJar
from pathlib import Path

import psycopg
import pytest

from testproject.databases import APPLICATION_NAME
from testproject.harness.environment import ROOT, environment, manage
from testproject.harness.load import HttpClient, http_calls
from testproject.harness.load import run as run_load
from testproject.harness.observer import Observer
from testproject.harness.serving import Kind, Site, SiteError
from testproject.postgres import EmbeddedServer
from testproject.processes import children_of, gone, wait_until
from testproject.reports.errors import ERROR_HEADER
from tests.fixtures.incidents import running_incident

ENGINES = ["stock", "stock-pool", "dbpool"]
JSON = "application/json"

TOTALS = """
    SELECT region.name, count(*), sum(amount)
    FROM reports_entry entry JOIN reports_report report ON report.id = entry.report_id
    JOIN reports_region region ON region.id = report.region_id
    GROUP BY region.name ORDER BY region.name
"""


@pytest.fixture(scope="module")
def seeded(server: EmbeddedServer) -> EmbeddedServer:
    env = environment(server, "dbpool", {"max_size": 2})
    manage(env, "migrate", "--verbosity", "0")
    assert manage(env, "seed_reports").strip() == "60 regions, 240 reports, 6000 entries"
    return server


def serve(
    server: EmbeddedServer,
    engine: str,
    kind: Kind = "gunicorn",
    threads: int = 8,
    wait: float = 0.05,
    **pool: float,
) -> Site:
    sizes = {"max_size": 4, "timeout": 10, **pool} if engine != "stock" else None
    if engine == "stock-pool":
        sizes = {"min_size": 1, **(sizes or {})}
    return Site(kind, environment(server, engine, sizes, DBPOOL_DEMO_WAIT=str(wait)), threads=threads)


def connections_of_site(server: EmbeddedServer) -> int:
    with server.connect() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [APPLICATION_NAME]
        ).fetchone()
    assert row is not None
    return int(row[0])


def assert_refused(host: str, port: int) -> None:
    with (
        closing(http.client.HTTPConnection(host, port, timeout=5)) as connection,
        pytest.raises(ConnectionRefusedError),
    ):
        connection.connect()


def waits_for_lock(server: EmbeddedServer) -> bool:
    with server.connect() as connection:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return connection.execute(waiting).fetchone() is not None


def log_in(url: str, user: str, password: str, to: str = "/admin/") -> str:
    """Log in to the admin and return its first page, or another one."""
    cookies = CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    with browser.open(f"{url}admin/login/"):
        token = next(cookie.value for cookie in cookies if cookie.name == "csrftoken")
    form = {"username": user, "password": password, "csrfmiddlewaretoken": token, "next": to}
    with browser.open(f"{url}admin/login/", urllib.parse.urlencode(form).encode()) as page:
        return str(page.read().decode())


class TestPages:
    @pytest.mark.parametrize(
        ("engine", "pages"), [("dbpool", ["naive", "fixed"]), ("stock", ["fixed"]), ("stock-pool", ["fixed"])]
    )
    def test_every_page_and_engine_shows_the_same_rows(
        self, seeded: EmbeddedServer, engine: str, pages: list[str]
    ) -> None:
        with seeded.connect() as connection:
            expected = connection.execute(TOTALS).fetchall()
        with serve(seeded, engine) as site, closing(HttpClient(site.host, site.port)) as client:
            for page in pages:
                rows = json.loads(client.get(f"/reports/{page}/", Accept=JSON).body)["rows"]
                assert [(row["region"], row["entries"], Decimal(row["total"])) for row in rows] == expected

    def test_pages_are_readable_html(self, seeded: EmbeddedServer) -> None:
        with serve(seeded, "dbpool") as site, closing(HttpClient(site.host, site.port)) as client:
            pages = {
                path: client.get(path, Accept="text/html").body.decode()
                for path in [
                    *map("/reports/{}".format, ["", "naive/", "fixed/", "1/priced/"]),
                    "/admin/login/",
                ]
            }
            style = client.get("/static/admin/css/base.css")
        assert "too many clients already" in pages["/reports/"]
        for path in ["/reports/naive/", "/reports/fixed/"]:
            assert "60 regions" in pages[path]
            assert "of at most 4 connections open" in pages[path]
        assert "EUR</strong>" in pages["/reports/1/priced/"]
        assert "Django administration" in pages["/admin/login/"]
        assert style.status == 200
        for page in pages.values():
            assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


class TestFriendlyErrors:
    """The server refuses every connection, or the pool has none to give, and no page shows the raw error."""

    @pytest.fixture
    def full_server(self, seeded: EmbeddedServer) -> Iterator[EmbeddedServer]:
        with ExitStack() as stack:
            with pytest.raises(psycopg.OperationalError, match="too many clients"):
                for _ in range(100):
                    stack.enter_context(seeded.connect())
            yield seeded

    @pytest.mark.parametrize("engine", ["stock", "dbpool"])
    def test_server_without_free_connections(self, full_server: EmbeddedServer, engine: str) -> None:
        with (
            serve(full_server, engine, timeout=1) as site,
            closing(HttpClient(site.host, site.port)) as client,
        ):
            program = client.get("/reports/fixed/", Accept=JSON)
            visitor = client.get("/reports/fixed/", Accept="text/html")
        assert program.status == visitor.status == 503
        assert program.headers[ERROR_HEADER] == "TooManyConnections (53300)"
        assert int(visitor.headers["Retry-After"]) >= 1
        assert json.loads(program.body)["sqlstate"] == "53300"
        page = visitor.body.decode()
        assert "Please try again" in page
        for secret in ["too many clients", "127.0.0.1", str(full_server.port), "Traceback"]:
            assert secret not in page

    @pytest.mark.parametrize(("engine", "name"), [("stock-pool", "PoolTimeout"), ("dbpool", "PoolExhausted")])
    def test_pool_without_free_connections(self, seeded: EmbeddedServer, engine: str, name: str) -> None:
        with ExitStack() as stack:
            site = stack.enter_context(serve(seeded, engine, max_size=1, timeout=0.3))
            executor = stack.enter_context(ThreadPoolExecutor(1))
            first, second = (stack.enter_context(closing(HttpClient(site.host, site.port))) for _ in range(2))
            holder = stack.enter_context(seeded.connect(autocommit=False))
            holder.execute("LOCK TABLE reports_entry")
            blocked = executor.submit(first.get, "/reports/fixed/", Accept=JSON)
            assert wait_until(lambda: waits_for_lock(seeded), timeout=10)
            answer = second.get("/reports/fixed/", Accept=JSON)
            holder.rollback()
            assert blocked.result().status == 200
        assert (answer.status, answer.headers[ERROR_HEADER]) == (503, name)

    def test_last_good_answer_of_a_page(self, seeded: EmbeddedServer) -> None:
        """Each kind of client gets its own."""
        with ExitStack() as stack:
            site = stack.enter_context(serve(seeded, "dbpool", max_size=1, timeout=0.3))
            executor = stack.enter_context(ThreadPoolExecutor(1))
            first, second = (stack.enter_context(closing(HttpClient(site.host, site.port))) for _ in range(2))
            good = second.get("/reports/kept/", Accept=JSON)
            holder = stack.enter_context(seeded.connect(autocommit=False))
            holder.execute("LOCK TABLE reports_entry")
            blocked = executor.submit(first.get, "/reports/fixed/", Accept=JSON)
            assert wait_until(lambda: waits_for_lock(seeded), timeout=10)
            stale = second.get("/reports/kept/", Accept=JSON)
            visitor = second.get("/reports/kept/", Accept="text/html")
            holder.rollback()
            assert blocked.result().status == 200
        assert (good.status, stale.status, stale.body) == (200, 200, good.body)
        assert (stale.headers["Degraded"], int(stale.headers["Age"]) >= 0) == ("busy", True)
        assert "Degraded" not in good.headers
        assert visitor.status == 503


class TestServers:
    @pytest.mark.parametrize(
        ("engine", "kind", "page"),
        [
            *((engine, "gunicorn", "priced") for engine in ENGINES),
            *((engine, "uvicorn", page) for engine in ("stock", "dbpool") for page in ("priced", "priced/async")),
        ],
    )
    def test_concurrent_requests_and_sigterm(self, seeded: EmbeddedServer, engine: str, kind: Kind, page: str) -> None:
        paths = itertools.cycle(f"/reports/{report}/{page}/" for report in range(1, 9))
        site = serve(seeded, engine, kind)
        with Observer(seeded) as observer:
            with site:
                with http_calls(site.host, site.port, 8, paths) as clients:
                    figures = run_load(clients, requests=48)
                workers = [site.pid, *children_of(site.pid)]
                code = site.stop()
            assert (figures.ok, figures.errors) == (48, {})
            assert observer.peak >= 1
            # The stock engine closes a connection at the end of each request, the server a moment later.
            assert engine == "stock" or observer.peak <= 4
        # uvicorn repeats the signal when it has stopped, so that its parent sees why it ended.
        assert code == (-signal.SIGTERM if kind == "uvicorn" else 0)
        assert all(map(gone, workers))
        assert_refused(site.host, site.port)
        assert wait_until(lambda: connections_of_site(seeded) == 0, timeout=10)

    @pytest.mark.parametrize("kind", ["gunicorn", "uvicorn"])
    def test_sigterm_lets_running_requests_finish(self, seeded: EmbeddedServer, kind: Kind) -> None:
        with ExitStack() as stack:
            site = stack.enter_context(serve(seeded, "dbpool", kind, wait=1))
            client = stack.enter_context(closing(HttpClient(site.host, site.port)))
            executor = stack.enter_context(ThreadPoolExecutor(1))
            # "Connection: close", or gunicorn waits for the connection's next request.
            request = executor.submit(client.get, "/reports/1/priced/", Accept=JSON, Connection="close")
            assert wait_until(lambda: connections_of_site(seeded) > 0, timeout=10)
            site.stop()
            assert request.result().status == 200

    def test_a_site_that_cannot_start_shows_its_log(self, seeded: EmbeddedServer) -> None:
        env = environment(seeded, "nonsense")
        with pytest.raises(SiteError, match="DBPOOL_ENGINE is 'nonsense'"), Site("gunicorn", env):
            pass


class TestIncidentCommand:
    def reproduce(self, engine: str, *options: str) -> tuple[int, str]:
        with running_incident("reports") as incident:
            done = incident("--engine", engine, *options)
        print(done.stderr, file=sys.stderr)
        return done.returncode, done.stdout

    def test_stock_engine_fails_as_reported(self) -> None:
        code, output = self.reproduce("stock", "--json")
        report = json.loads(output)
        naive, fixed = report["engines"]["stock"]["runs"]
        assert code == 0
        assert report["met"] is True
        assert naive["requests"] == fixed["requests"] == 32
        assert naive["errors"]["TooManyConnections (53300)"] > 0
        assert naive["ok"] + naive["failed"] == naive["requests"]
        assert naive["connections_refused"] > 0
        assert (fixed["failed"], fixed["connections_refused"]) == (0, 0)

    def test_ours_answers_everything(self) -> None:
        code, output = self.reproduce("dbpool")
        assert code == 0
        assert "dbpool: Gone: 0 failed requests" in output
        assert re.search(r"^ +answered +32 +32$", output, re.MULTILINE)
        assert re.search(r"^ +connections refused +0 +0$", output, re.MULTILINE)


class TestDemo:
    QUICK = ["--threads", "12", "--connections", "3", "--wait", "0.1", "--seconds", "0.5", "--port", "0"]

    @pytest.fixture
    def directory(self) -> Iterator[Path]:
        """For all temporary files of the demo; also its unprivileged server must be able to enter it."""
        with tempfile.TemporaryDirectory(prefix="demo-") as name:
            Path(name).chmod(0o755)
            yield Path(name)

    @contextmanager
    def demo(self, directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "testproject.demo", *self.QUICK, *options]
        env = {name: value for name, value in os.environ.items() if name != "ONCE"}
        env |= {"TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.terminate()

    def read_until(self, process: subprocess.Popen[str], text: str) -> str:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if text in line:
                return output
        pytest.fail(f"ended with {process.wait()} before {text!r}:\n{output}")

    def interrupt(self, process: subprocess.Popen[str], directory: Path) -> str:
        """Return the rest of the output; no process and no file may be left."""
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        output = process.stdout.read()
        process.wait()
        assert all(map(gone, children))
        assert list(directory.iterdir()) == []
        assert str(directory) not in subprocess.check_output(["ps", "-axo", "args"], text=True)
        return output

    def test_table_then_a_site_to_log_in_to_until_interrupted(self, directory: Path) -> None:
        with self.demo(directory) as process:
            output = self.read_until(process, "leaves nothing behind")
            url = re.search(r"site +(http://\S+)", output)
            password = re.search(r"password (\S+)", output)
            assert url
            assert password
            assert "Site administration" in log_in(url[1], "demo", password[1])
            assert "Is all well?" in log_in(url[1], "demo", password[1], to="/admin/django_dbpool/connectionpool/")
            assert f"{url[1]}admin/django_dbpool/connectionpool/" in output
            assert "Stopping." in self.interrupt(process, directory)
            assert process.returncode == 0
        assert "\x1b" not in output
        rows = re.findall(r"^    (\S.*?)  +([\d.]+) .* (\d+) +(\d+)$", output, re.MULTILINE)
        pools = ["Django's pool", "django_dbpool"]
        assert [name for name, *_ in rows] == [*pools, "a connection per thread", *pools]
        ours = [row for row in rows if row[0] == "django_dbpool"]
        assert all(float(rate) > 0 and failed == "0" and int(seen) <= 3 for _, rate, failed, seen in ours)
        assert "With 3 connections django_dbpool answered" in output

    @pytest.mark.parametrize(
        "after",
        ["on either pool", "start PostgreSQL", "migrate and seed", "Django's pool, no HTTP"],
    )
    def test_interrupted_before_the_table(self, directory: Path, after: str) -> None:
        with self.demo(directory) as process:
            self.read_until(process, after)
            assert self.interrupt(process, directory).endswith("Stopped.\n")
            assert process.returncode == 128 + signal.SIGINT

    @pytest.mark.ci
    def test_once_with_its_real_numbers(self) -> None:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "testproject.demo"],
            cwd=ROOT,
            env={**os.environ, "ONCE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        times = re.search(r"answered ([\d.]+) times as many", " ".join(done.stdout.split()))
        assert times
        assert float(times[1]) > 3
        assert time.monotonic() - began < 120
