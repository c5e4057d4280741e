"""What type checkers accept in tests/typing/celery_tasks.py also runs, and no public name is left out."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from django_dbpool import batch
from django_dbpool.contrib import celery
from tests.typing import celery_tasks

TREES = [ast.parse(path.read_text()) for path in Path(str(celery_tasks.__file__)).parent.glob("*.py")]
USED = {
    name
    for tree in TREES
    for node in ast.walk(tree)
    for name in ([node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else [])
}


@pytest.mark.parametrize("module", [batch, celery])
def test_every_public_name_is_used(module: Any) -> None:
    assert set(module.__all__) - USED == set()


@pytest.fixture
def users(transactional_db: None) -> list[User]:
    return [User.objects.create(username=f"user {n}", email=f"{n}@example.com", first_name="ann") for n in range(3)]


def test_tasks(users: list[User]) -> None:
    assert celery_tasks.recount(domain="@example.com") == 3
    assert celery_tasks.retire(domain="@example.com")["handled"] == 3
    assert celery_tasks.retire(domain="@example.com")["handled"] == 0
    assert not User.objects.filter(is_active=True).exists()
    assert celery_tasks.activate(domain="@example.com", run="activate")["done"] == 3
    assert celery_tasks.greet(run="greet")["done"] == 3
    assert set(User.objects.values_list("is_active", "first_name")) == {(True, "Ann")}
    assert celery_tasks.look("greet")[0].startswith("0: done, ")


def test_control(users: list[User]) -> None:
    begun = batch.run_batches(
        User.objects.all(), len, checkpoint="begun", size=1, should_stop=iter([False, True]).__next__
    )
    assert (begun.reason, begun.done) == ("stopped", 1)
    celery_tasks.control("begun")
    assert batch.status("begun").state == "cancelled"
    sent: list[int] = []
    celery_tasks.from_another_queue(lambda task, arguments, part: sent.append(part))
    assert batch.status("retire").done == 3
