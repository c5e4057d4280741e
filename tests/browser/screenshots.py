"""
The pictures of docs/dashboard.md: ``python -m tests.browser.screenshots [folder] [--only WORD]``. A shop that is well,
then one whose view waits for somebody else's server inside a transaction.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.browser import chromium, png
from tests.browser.addresses import BATCH, PAGES, STATUS
from tests.browser.batches import plant
from tests.browser.shop import OPERATOR, TOKEN, Person, Shop, load, shop

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
TALLEST = 1000
"""Pixels: what a reader sees first, and enough of what comes below."""

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1200, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


class Photographer:
    """Takes each page in each look."""

    def __init__(self, visitors: chromium.Visitors, folder: Path, only: str) -> None:
        self._visitors = visitors
        self._folder = folder
        self._only = only

    def take(self, name: str, path: str, person: Person | None = OPERATOR, status: int = 200, **more: Any) -> None:
        """
        Args:
            click: a selector to click first.
            more: of the context.
        """
        click = more.pop("click", None)
        for look, options in LOOKS.items():
            if self._only not in f"{name}-{look}":
                continue
            with self._visitors.visit(person, **options, **more) as visitor:
                page = visitor.open(path, status)
                if click:
                    page.click(click)
                    page.wait_for_load_state()
                self._save(page, f"{name}-{look}.png", options["viewport"]["width"])

    def _save(self, page: Any, name: str, width: int) -> None:
        height = page.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST)}
        image = page.screenshot(full_page=True, clip=clip, animations="disabled", caret="hide")
        with self._visitors.visit(None) as visitor:
            image = png.shrunk(visitor.page, image)
        (self._folder / name).write_bytes(image)
        print(f"{name}: {len(image) // 1024} KB")


@contextmanager
def sick(shop: Shop) -> Iterator[None]:
    """Orders wait for the payments' server inside their transaction, and everybody else waits for a connection."""
    with ExitStack() as stack:
        stack.enter_context(shop.busy())
        shop.fill("/orders/4711/pay/")
        stack.enter_context(load(shop, pause=0.2))
        time.sleep(20)  # for a plot with a shape, and leases of an age that is told
        yield


def take_all(shop: Shop, photographer: Photographer) -> None:
    with load(shop):
        time.sleep(20)
        photographer.take("healthy-overview", PAGES["overview"])
    with sick(shop):
        for name, path in PAGES.items():
            if name != "batches":
                photographer.take(name, path)
        for name, action in (("confirm", "terminate"), ("stack", "stack")):
            photographer.take(name, PAGES["holders"], click=f"[data-action={action}] >> nth=0")
    shop.end_requests()
    for name, path in (("batches", PAGES["batches"]), ("batch", f"{BATCH}?alias=default&name=newsletter+7")):
        plant(shop)  # each time, as heartbeats grow old
        photographer.take(name, path)
    photographer.take("batch-confirm", PAGES["batches"], click="[data-action=cancel] >> nth=0")
    shop.server.stop("immediate")
    photographer.take("503", PAGES["overview"], status=503)
    with load(shop):
        time.sleep(10)  # until the circuit is open in each process, whichever answers
    photographer.take("status", STATUS, None, extra_http_headers={"Authorization": f"Bearer {TOKEN}"})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--only", default="", metavar="WORD", help="only pictures with this in their name")
    options = parser.parse_args()
    program = chromium.find()
    if program is None:
        sys.exit("no Chromium is installed (apt-get install chromium)")
    options.folder.mkdir(parents=True, exist_ok=True)
    with shop() as found, chromium.launched(program) as browser:
        photographer = Photographer(chromium.Visitors(browser, found), options.folder, options.only)
        take_all(found, photographer)


if __name__ == "__main__":
    main()
