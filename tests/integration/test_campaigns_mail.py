"""A campaign whose process is killed when a letter is handed in and nobody knows it yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testproject.campaigns.counting import Letters, count_letters, outbox_size
from testproject.campaigns.folder import VARIABLE
from testproject.campaigns.switches import VARIABLE as WITHOUT
from testproject.harness.environment import CommandError, environment, manage
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.fixtures.crashing_post import AFTER
from tests.fixtures.databases import seeded_database

pytestmark = pytest.mark.ci

RECIPIENTS = 20
SETTINGS = "testproject.campaigns.settings"
SEND = "from testproject.campaigns.tasks import send_campaign; print(send_campaign(campaign=1)['done'])"
DELIVER = "from testproject.campaigns.tasks import deliver_letters; deliver_letters()"
GOOD = Letters(recipients=RECIPIENTS, handed_in=RECIPIENTS, once=RECIPIENTS, twice=0, missing=0, miscounted=0)


@pytest.fixture(scope="module")
def shop(session_server: Server) -> Iterator[Server]:
    with seeded_database(session_server, "campaigns", DJANGO_SETTINGS_MODULE=SETTINGS) as own:
        yield own


@pytest.fixture
def env(shop: Server, tmp_path: Path) -> dict[str, str]:
    """With one campaign that nobody has got yet."""
    variables = {"DJANGO_SETTINGS_MODULE": SETTINGS, VARIABLE: str(tmp_path), "DBPOOL_CAMPAIGNS_PAUSE": "0.01"}
    env = environment(shop, "dbpool", None, **variables)
    with shop.connect() as connection:
        connection.execute("TRUNCATE django_dbpool_batchrun, django_dbpool_batchmessage CASCADE")
    manage(env, "seed_campaigns", "--campaigns=1", f"--recipients={RECIPIENTS}")
    return env


def shell(env: dict[str, str], code: str) -> str:
    return manage(env, "shell", "--no-imports", "-c", code)


def crash(env: dict[str, str], after: int) -> None:
    variables = {"DBPOOL_CAMPAIGNS_POST": "tests.fixtures.crashing_post.CrashingPostOffice", AFTER: str(after)}
    with pytest.raises(CommandError, match="ended with -9"):
        shell({**env, **variables}, SEND)


def send_the_rest(env: dict[str, str], shop: Server) -> None:
    """Start the same run again, and deliver what is due later, as beat does."""
    assert shell(env, SEND) == f"{RECIPIENTS}\n"

    def is_delivered() -> bool:
        shell(env, DELIVER)
        return outbox_size(shop) == 0

    assert wait_until(is_delivered, timeout=60)


@pytest.mark.parametrize("after", [1, 7, RECIPIENTS])
def test_is_handed_in_twice_and_known_by_its_key(env: dict[str, str], shop: Server, tmp_path: Path, after: int) -> None:
    """It can't be known whether it was; its Message-ID is the same, so that its receiver keeps one."""
    crash(env, after)
    send_the_rest(env, shop)
    assert count_letters(shop, tmp_path) == replace(GOOD, handed_in=RECIPIENTS + 1)


def test_without_outbox_and_key_somebody_has_two(env: dict[str, str], shop: Server, tmp_path: Path) -> None:
    """The same kill: what was sent in the transaction that is rolled back is sent again."""
    env[WITHOUT] = "outbox"
    crash(env, 7)
    send_the_rest(env, shop)
    assert count_letters(shop, tmp_path) == replace(GOOD, handed_in=RECIPIENTS + 2, once=RECIPIENTS - 2, twice=2)
