"""The samples of docs/batches.md run, and what its tables say is so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync

from django_dbpool import batch
from django_dbpool.batch import run_batches
from django_dbpool.models import BatchMessage
from tests.app import batching
from tests.app.models import Item
from tests.fixtures.batches import fill

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "batches.md").read_text()


@pytest.mark.django_db(transaction=True)
def test_samples(capsys: pytest.CaptureFixture[str]) -> None:
    fill(3)
    batching.count_all()
    assert batching.count_once().done == 3
    assert batching.count_once().handled == 0
    batching.announce_all()
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert not BatchMessage.objects.exists()
    assert [batching.count_part(part).handled for part in range(batching.divide())] == [1, 1, 1]
    Item.objects.update(n=0)
    assert async_to_sync(batching.count_later)().done == 3
    assert set(Item.objects.values_list("n", flat=True)) == {1}


def test_every_argument_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE)
    table = {name: default.strip("`") for name, default in rows if default.startswith("`") or not default}
    parameters = [each for each in inspect.signature(run_batches).parameters.values() if each.kind is each.KEYWORD_ONLY]
    assert [each.name for each in parameters] == list(table)
    assert [repr(each.default).replace("'", '"') for each in parameters] == list(table.values())


def test_every_public_name_is_on_a_page() -> None:
    pages = PAGE + (DOCS / "batches-control.md").read_text()
    assert [name for name in batch.__all__ if f"`{name}" not in pages and f"{name}(" not in pages] == []
