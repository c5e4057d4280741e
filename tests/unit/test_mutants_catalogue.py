"""The planted defects fit the code, which moves on. That each of them is noticed takes minutes: tests/mutants."""

from __future__ import annotations

from pathlib import Path

import pytest

import django_dbpool
from tests.mutants.catalogue import MUTANTS, Mutant

PACKAGE = Path(django_dbpool.__file__).parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_text_is_there_once(mutant: Mutant) -> None:
    for file, text, replacement in mutant.edits:
        assert (PACKAGE / file).read_text().count(text) == 1, f"{file}: {text!r}"
        assert text != replacement
    assert all((PACKAGE.parent / test.partition("::")[0]).exists() for test in mutant.killers)
