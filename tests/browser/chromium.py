"""The browser that the system has, driven by Playwright, and what goes wrong in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, sync_playwright

from tests.browser.shop import PASSWORD, PEOPLE, Person, Shop

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def find() -> str | None:
    """The program; None where there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@contextmanager
def launched(program: str) -> Iterator[Browser]:
    """Headless. As root its sandbox can't be had, and a container's /dev/shm is too small for it."""
    options = [
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-lcd-text",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
    ]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Complaints:
    """Of the pages of one context: errors of scripts, messages on the console, violations of the policy, answers."""

    expected: set[int] = field(default_factory=set)
    """Statuses that the test is about: the browser's remark on them is none of ours."""
    found: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.found.append(f"error of a script: {error}"))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        # A violation of the policy is an error on the console, too.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.found.append(f"console: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.found.append(f"{response.status}: {response.url}")


class Visitor:
    """Somebody with a browser of his own."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.complaints = Complaints()
        self.page = self.new_page()

    def new_page(self) -> Page:
        page = self.context.new_page()
        self.complaints.watch(page)
        return page

    def open(self, path: str, status: int = 200) -> Page:
        self.complaints.expected.add(status)
        answer = self.page.goto(self.url + path)
        assert answer is not None and answer.status == status, f"{path}: {answer and answer.status}"
        return self.page

    def log_in(self, person: Person) -> None:
        self.open("/admin/login/")
        self.page.fill("#id_username", person.name)
        self.page.fill("#id_password", PASSWORD)
        self.page.press("#id_password", "Enter")
        self.page.wait_for_url(lambda url: "/login/" not in url)


class Visitors:
    """Opens contexts. Everybody logs in once, by the form, while all is well; afterwards the cookies do."""

    def __init__(self, browser: Browser, shop: Shop) -> None:
        self._browser = browser
        self._shop = shop
        self._cookies = {person.name: self._log_in(person) for person in PEOPLE}

    @contextmanager
    def visit(self, person: Person | None, **options: object) -> Iterator[Visitor]:
        """
        Args:
            person: None for somebody who is not logged in.
            options: of Playwright's `new_context`.
        """
        if person is not None:
            options["storage_state"] = self._cookies[person.name]
        context = self._browser.new_context(**options)  # type: ignore[arg-type]
        try:
            visitor = Visitor(context, self._shop.url)
            yield visitor
            assert not visitor.complaints.found, visitor.complaints.found
        finally:
            context.close()

    def _log_in(self, person: Person) -> object:
        with self.visit(None) as visitor:
            visitor.log_in(person)
            return visitor.context.storage_state()
