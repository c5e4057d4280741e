"""What live.js does with the answers it gets, on a page whose server is the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import sub
from typing import Any

import pytest
from django.template.loader import render_to_string

import django_dbpool

pytestmark = [pytest.mark.ci, pytest.mark.alone]

SCRIPT = "/".join([*django_dbpool.__path__, "static/django_dbpool/live.js"])
ADDRESS = "http://page.test/holders/?q=shop"
INTERVAL = 5

STYLE = ".dbpool-hidden { position: absolute; clip-path: inset(50%) } body { font: 16px monospace }"


def row(key: str, words: str) -> str:
    return (
        f'<tr data-key="{key}"><td>{words}</td><td><a href="/stop/" id="stop-{key}" data-live-hold>Stop</a></td></tr>'
    )


class Server:
    """Answers the page's requests as it is told to."""

    def __init__(self) -> None:
        self.rows = [("a", "41 s"), ("b", "7 s")]
        self.meant = ["one"]
        self.sentence = "All is well."
        self.stale = "false"
        self.title = "healthy"
        self.asked = 0
        self.answer: Callable[[Any], None] = self.well

    def well(self, route: Any) -> None:
        route.fulfill(status=200, content_type="text/html", body=self.html())

    def html(self) -> str:
        return f"""<!doctype html><html lang="en"><head><title>{self.title}</title><style>{STYLE}</style>
            <script src="/live.js" defer></script></head><body>
            <div data-live data-interval="{INTERVAL}" data-stale="{self.stale}">
              {render_to_string("django_dbpool/live.html")}
              <p data-live-say>{self.sentence}</p>
              <form data-live-keep><input id="q" value="shop"></form>
              <form id="end">{" ".join(f'<input type="hidden" name="selected" value="{each}">' for each in self.meant)}
                <button>End {len(self.meant)}</button></form>
              <details><summary>SQL</summary><p>SELECT {len(self.rows)}</p></details>
              <table><tbody>{" ".join(row(*each) for each in self.rows)}</tbody></table>
            </div></body></html>"""

    def route(self, route: Any) -> None:
        if route.request.url.endswith("/live.js"):
            route.fulfill(path=SCRIPT, content_type="text/javascript")
            return
        if route.request.resource_type == "fetch":
            assert route.request.url == ADDRESS
            self.asked += 1
            self.answer(route)
        else:
            self.well(route)


COUNT_REQUESTS = """
    window.running = 0;
    window.asked = [];
    const ask = window.fetch;
    window.fetch = (...given) => {
        window.asked.push(Date.now());
        window.running += 1;
        const answer = ask(...given);
        answer.then((each) => each.clone().text()).catch(() => "").then(() => { window.running -= 1; });
        return answer;
    };
"""

WATCH_ROWS = """
    window.taken = [];
    new MutationObserver((all) => all.forEach((each) => each.removedNodes.forEach((node) => {
        if (node.dataset) window.taken.push(node.dataset.key);
    }))).observe(document.querySelector("tbody"), {childList: true});
"""

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]


@pytest.fixture
def server(settings: Any) -> Server:
    settings.TEMPLATES = TEMPLATES
    return Server()


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Any]:
    """Open, its clock in the hands of the test."""
    context = chromium.new_context()
    try:
        errors: list[str] = []
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.add_init_script(COUNT_REQUESTS)
        page.clock.install(time=0)
        page.clock.pause_at(1)  # else its time also passes while the test looks on
        page.route("http://page.test/**", server.route)
        page.goto(ADDRESS)
        page.wait_for_selector("[data-live-bar]:visible")
        yield page
        assert errors == []
    finally:
        context.close()


def words(page: Any) -> str:
    return page.inner_text("[data-live-text]")


def cells(page: Any) -> list[str]:
    return page.locator("td:first-child").all_inner_texts()


def after(page: Any, seconds: float, *, step: float = 6, hanging: bool = False) -> None:
    """Let the page's time pass in steps; a request is answered somewhere in the step it falls in."""
    while seconds > 0:
        page.clock.run_for(round(min(seconds, step) * 1000))
        while page.evaluate("window.running") and not hanging:
            page.wait_for_timeout(5)
        page.wait_for_timeout(10)
        seconds -= step


def refresh(page: Any, server: Server) -> None:
    before = server.asked
    after(page, INTERVAL + 0.1)
    assert server.asked == before + 1
    after(page, 1)


def test_takes_over_what_differs(page: Any, server: Server) -> None:
    server.rows, server.sentence, server.title = [("b", "12 s"), ("c", "1 s")], "One caller waits.", "degraded"
    refresh(page, server)
    assert cells(page) == ["12 s", "1 s"]
    assert page.inner_text("[data-live-say]") == "One caller waits."
    assert page.inner_text("[data-live-announcer]") == "One caller waits."
    assert page.title() == "degraded"
    assert words(page).startswith("Updated")


def test_rows_stay_themselves(page: Any, server: Server) -> None:
    """The reader's place is kept: focus, what is open, what is typed; the row above it may go."""
    page.fill("#q", "half a wo")
    page.click("summary")
    page.evaluate("document.querySelector('[data-key=b]').mark = 1")
    page.focus("#stop-b")
    page.evaluate(WATCH_ROWS)
    server.rows = [("b", "12 s"), ("c", "1 s")]
    refresh(page, server)
    assert page.evaluate("document.activeElement.id") == "stop-b"
    assert page.evaluate("document.querySelector('[data-key=b]').mark") == 1
    assert page.input_value("#q") == "half a wo"
    assert page.inner_text("details p") == "SELECT 2"
    assert page.evaluate("window.taken") == ["a"]
    server.rows = [("c", "6 s"), ("b", "17 s")]  # sorted otherwise
    refresh(page, server)
    assert cells(page) == ["6 s", "17 s"]
    assert page.evaluate("document.activeElement.id") == "stop-b"
    server.rows = [("c", "11 s")]
    refresh(page, server)
    assert page.evaluate("document.activeElement.hasAttribute('data-live')")  # not the top of the page


def test_a_button_sends_what_it_says(page: Any, server: Server) -> None:
    """Fields that the reader fills in are his; what stands behind a button is the page's, and changes with it."""
    for meant in (["two", "three"], ["three"], ["four", "five", "six"]):
        server.meant = meant
        refresh(page, server)
        assert page.inner_text("#end button") == f"End {len(meant)}"
        assert page.evaluate("new FormData(document.getElementById('end')).getAll('selected')") == meant


def test_nothing_moves_under_the_pointer(page: Any, server: Server) -> None:
    page.hover("#stop-b")
    server.rows = [("b", "12 s")]
    refresh(page, server)
    assert cells(page) == ["41 s", "7 s"]
    assert words(page).startswith("Held while you")
    page.mouse.move(0, 0)
    refresh(page, server)
    assert cells(page) == ["12 s"]


def test_nor_while_text_is_selected(page: Any, server: Server) -> None:
    page.dblclick("[data-key=a] td")
    server.rows = [("b", "12 s")]
    refresh(page, server)
    assert cells(page) == ["41 s", "7 s"]
    page.evaluate("document.getSelection().removeAllRanges()")
    refresh(page, server)
    assert cells(page) == ["12 s"]


@pytest.mark.parametrize(
    ("status", "said"),
    [(None, "No answer from the server"), (500, "The server answers with an error"), (503, "The server answers with")],
    ids=["unreachable", "500", "503"],
)
def test_says_that_it_is_stale_and_backs_off(page: Any, server: Server, status: int | None, said: str) -> None:
    server.answer = lambda route: route.abort() if status is None else route.fulfill(status=status, body="")
    refresh(page, server)
    assert words(page).startswith(said)
    assert page.inner_text("[data-live-announcer]").startswith(said)
    assert page.get_attribute("[data-live]", "data-outdated") is not None
    assert cells(page) == ["41 s", "7 s"]  # the last that was known
    told = page.inner_text("[data-live-announcer]")
    step = 2
    after(page, 200, step=step)
    assert page.inner_text("[data-live-announcer]") == told  # seconds are not counted aloud
    asked = page.evaluate("window.asked")
    for gap, expected in zip(map(sub, asked[1:], asked), [10, 20, 40, 60, 60], strict=True):
        assert expected * 1000 <= gap <= (expected + step) * 1000
    server.answer = server.well
    server.rows = [("b", "99 s")]
    after(page, 61 + step)
    assert cells(page) == ["99 s"]
    assert words(page).startswith("Updated")
    assert page.get_attribute("[data-live]", "data-outdated") is None


def test_data_that_are_old_on_the_server(page: Any, server: Server) -> None:
    server.stale = "true"
    refresh(page, server)
    assert page.get_attribute("[data-live]", "data-outdated") is not None


def login_form(route: Any) -> None:
    route.fulfill(status=200, content_type="text/html", body="<form>log in</form>")


def redirect(route: Any) -> None:
    route.fulfill(status=302, headers={"Location": "/login/"})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (redirect, "You are logged out"),
        (login_form, "You are logged out"),
        (lambda route: route.fulfill(status=403, body=""), "You may not see this any more"),
    ],
    ids=["redirect", "form", "403"],
)
def test_stops_when_the_session_ends(page: Any, server: Server, answer: Any, said: str) -> None:
    server.answer = answer
    refresh(page, server)
    assert words(page).startswith(said)
    assert page.get_attribute("[data-live]", "data-outdated") is not None
    before = server.asked
    after(page, 300)
    assert server.asked == before


def test_pauses(page: Any, server: Server) -> None:
    page.click("[data-live-toggle]")
    before = server.asked
    after(page, 60)
    assert server.asked == before
    assert words(page) in ("Paused; 60 s old", "Paused; 61 s old")
    assert page.get_attribute("[data-live]", "data-outdated") is not None
    page.click("[data-live-toggle]")
    after(page, 1)
    assert server.asked == before + 1
    assert words(page).startswith("Updated")


def test_pauses_in_hidden_tabs(page: Any, server: Server) -> None:
    hide(page, True)
    before = server.asked
    after(page, 60)
    assert server.asked == before
    hide(page, False)
    after(page, 0.1)
    assert server.asked == before + 1


def hide(page: Any, hidden: bool) -> None:
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange')) }",
        hidden,
    )


def test_requests_do_not_overlap(page: Any, server: Server) -> None:
    """One that hangs is given up after ten seconds; until then there is no other."""
    hanging: list[Any] = []
    server.answer = hanging.append
    after(page, INTERVAL + 4, hanging=True)
    hide(page, False)  # asks at once, if nothing runs
    after(page, 1, hanging=True)
    assert server.asked == 1
    after(page, 6)
    assert words(page).startswith("No answer from the server")
    hanging[0].abort()
