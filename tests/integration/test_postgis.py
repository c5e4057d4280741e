"""The PostGIS engine: every physical connection knows the types, however old it is, and nothing pins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.contrib.postgres.operations import CreateExtension
from django.db import connections, models, transaction
from django.db.migrations.state import ProjectState
from django.test.utils import isolate_apps

from testproject.postgres import EmbeddedServer
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import backend, holders, in_use, size, value
from tests.fixtures.postgis import postgis_server
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.ci

MakeGis = Callable[..., str]
MakeWorker = Callable[[], Worker]


@pytest.fixture(scope="module")
def gis_server() -> Iterator[EmbeddedServer]:
    with postgis_server() as server:
        yield server


@pytest.fixture
def make_gis(gis_server: EmbeddedServer, make_alias: MakeAlias) -> Iterator[MakeGis]:
    """An alias on a new database; `extensions` are created before anybody connects."""
    names: list[str] = []

    def make(extensions: tuple[str, ...] = ("postgis",), **pool: Any) -> str:
        names.append(f"gis{len(names)}")
        with gis_server.connect() as server:
            server.execute(f"CREATE DATABASE {names[-1]}")
        with gis_server.connect(dbname=names[-1]) as database:
            for extension in extensions:
                database.execute(f"CREATE EXTENSION {extension}")
        return make_alias(
            gis_server,
            NAME=names[-1],
            ENGINE="django_dbpool.backends.postgis",
            POOL={"max_size": 2, "min_size": 0, "timeout": 5, **pool},
        )

    yield make
    with gis_server.connect() as server:
        for name in names:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def place() -> Iterator[type[models.Model]]:
    from django.contrib.gis.db.models import PointField, RasterField

    with isolate_apps("tests.app"):

        class Place(models.Model):
            at = PointField()
            on_earth = PointField(geography=True, null=True)
            seen = RasterField(null=True)

            class Meta:
                app_label = "app"

        yield Place


@pytest.fixture
def registrations(gis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The server process of each connection that got the adapters."""
    from django_dbpool.backends.postgis.base import base

    pids: list[int] = []
    original = base.DatabaseWrapper.register_geometry_adapters

    def register(self: Any, pg_connection: psycopg.Connection[Any], clear_caches: bool = False) -> None:
        pids.append(pg_connection.info.backend_pid)
        original(self, pg_connection, clear_caches)

    monkeypatch.setattr(base.DatabaseWrapper, "register_geometry_adapters", register)
    return pids


def parameter() -> Any:
    from django.contrib.gis.db.backends.postgis.adapter import PostGISAdapter
    from django.contrib.gis.geos import Point

    return PostGISAdapter(Point(1, 2, srid=4326))


def knows_types(alias: str) -> bool:
    """Whether this thread's next connection has the adapters; if so, that they work."""
    with connections[alias].cursor() as cursor:
        known = cursor.entry.conn.adapters.types.get("geometry") is not None
        if known:
            cursor.execute("SELECT %s, ST_Y(%s)", [parameter(), parameter()])
            loaded, y = cursor.fetchone()
            assert isinstance(loaded, str)
            assert y == 2
    return known


def test_models_with_geometry_geography_and_raster(make_gis: MakeGis, place: type[models.Model]) -> None:
    from django.contrib.gis.gdal import GDALRaster
    from django.contrib.gis.geos import Point
    from django.contrib.gis.measure import D

    alias = make_gis(("postgis", "postgis_raster"))
    raster = GDALRaster({"width": 2, "height": 2, "srid": 4326, "datatype": 1, "bands": [{"data": range(4)}]})
    with connections[alias].schema_editor() as editor:
        editor.create_model(place)
    rows = place._default_manager.using(alias)
    rows.create(at=Point(1, 2, srid=4326), on_earth=Point(13, 52, srid=4326), seen=raster)
    rows.create(at=Point(3, 4, srid=4326))
    near: Any = rows.get(on_earth__distance_lt=(Point(13.001, 52, srid=4326), D(m=100)))
    assert near.at.coords == (1, 2)
    assert near.on_earth.coords == (13, 52)
    assert (near.seen.srid, near.seen.width, near.seen.bands[0].max) == (4326, 2, 3)
    assert rows.filter(at__within=Point(3, 4, srid=4326).buffer(0.1)).count() == 1
    assert in_use(alias) == 0


def test_adapters_once_per_physical_connection(
    make_gis: MakeGis, make_worker: MakeWorker, registrations: list[int]
) -> None:
    alias = make_gis()
    first, second = make_worker(), make_worker()
    for _ in range(5):
        assert knows_types(alias)
    with transaction.atomic(using=alias):
        mine = backend(alias)
        assert first(knows_types, alias)
        theirs = first(backend, alias)
    assert second(knows_types, alias)
    assert sorted(registrations) == sorted([mine, theirs])
    assert size(alias) == 2


def test_nothing_pins(make_gis: MakeGis) -> None:
    alias = make_gis()
    with transaction.atomic(using=alias):
        assert knows_types(alias)
        assert [holder.pinned for holder in holders(alias)] == [None]
    assert in_use(alias) == 0


def test_extension_created_after_the_pool_was_opened(make_gis: MakeGis, make_worker: MakeWorker) -> None:
    """Connections opened before: a free one, and one in the middle of another thread's transaction."""
    alias = make_gis(extensions=(), max_size=3)
    worker = make_worker()

    def begin() -> int:
        connections[alias].set_autocommit(False)
        return backend(alias)

    busy = worker(begin)
    free = backend(alias)
    assert not knows_types(alias)
    connections[alias].prepare_database()
    assert backend(alias) != free
    assert knows_types(alias)
    assert worker(backend, alias) == busy
    worker(lambda: connections[alias].commit())
    worker(lambda: connections[alias].set_autocommit(True))
    assert worker(knows_types, alias)
    with transaction.atomic(using=alias):
        assert backend(alias) != busy
        assert worker(backend, alias) != busy
    assert in_use(alias) == 0


@pytest.mark.parametrize("committed", [True, False])
def test_extension_created_by_a_migration(make_gis: MakeGis, make_worker: MakeWorker, committed: bool) -> None:
    """The transaction that creates it can use it; other connections learn of it when it is committed."""
    alias = make_gis(extensions=())
    worker = make_worker()
    before = backend(alias)
    state = ProjectState()
    try:
        with connections[alias].schema_editor(atomic=True) as editor:
            CreateExtension("postgis").database_forwards("app", editor, state, state)
            assert value(alias, "SELECT ST_Y(%s)", [parameter()]) == 2
            other = worker(backend, alias)
            assert not worker(knows_types, alias)
            if not committed:
                raise InterruptedError
    except InterruptedError:
        connections[alias].close()
        assert worker(backend, alias) == other  # nothing was replaced but what knows the types that are gone
        assert not worker(knows_types, alias)
        CreateExtension("postgis").database_forwards("app", connections[alias].schema_editor(), state, state)
    connections[alias].close()
    assert before not in {backend(alias), worker(backend, alias)}
    assert knows_types(alias)
    assert worker(knows_types, alias)


def test_extension_created_by_another_process(make_gis: MakeGis, gis_server: EmbeddedServer) -> None:
    """A connection made afterwards knows the types; Django remembers that there were none."""
    alias = make_gis(extensions=())
    assert not knows_types(alias)
    with gis_server.connect(dbname=connections[alias].settings_dict["NAME"]) as elsewhere:
        elsewhere.execute("CREATE EXTENSION postgis")
    connections[alias].pool.drain()
    assert knows_types(alias)


def test_test_databases_are_created_and_destroyed(make_gis: MakeGis) -> None:
    """Through a connection to no database in particular, on which nothing of PostGIS is used."""
    alias = make_gis()
    creation = connections[alias].creation
    with connections[alias]._nodb_cursor() as cursor:
        assert not hasattr(cursor.db.ops, "postgis_lib_version")
        creation._execute_create_test_db(cursor, {"dbname": '"test_of_gis"', "suffix": ""})
        cursor.execute('DROP DATABASE "test_of_gis"')


def test_unpooled_it_is_the_stock_engine(make_gis: MakeGis) -> None:
    alias = make_gis(extensions=(), enabled=False)
    connections[alias].prepare_database()
    assert connections[alias].pool is None
    assert connections[alias].connection is not None
    assert value(alias, "SELECT ST_Y(%s)", [parameter()]) == 2
