"""One shop and one browser for each module: Playwright's loop must not run while other tests use the ORM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.shop import Shop, shop


@pytest.fixture(scope="module")
def the_shop() -> Iterator[Shop]:
    with shop() as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    chromium = pytest.importorskip("tests.browser.chromium", reason="Playwright is not installed")
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with chromium.launched(program) as browser:
        yield browser


@pytest.fixture(scope="module")
def visitors(chromium: object, the_shop: Shop) -> object:
    from tests.browser.chromium import Visitors

    return Visitors(chromium, the_shop)  # type: ignore[arg-type]
