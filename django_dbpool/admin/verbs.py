"""What can be done from the pages, in words for those who are asked whether it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.utils.translation import gettext_lazy


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be done, in words for the page that asks whether it should be."""

    title: Any
    effect: Any
    button: Any
    page: str = "holders"
    """Where it was asked for, and where one comes back to."""
    confirmed: bool = True
    """Whether it has to be: not what changes nothing."""
    dangerous: bool = False


VERBS = {
    "cancel": Verb(
        gettext_lazy("Cancel a statement"),
        gettext_lazy(
            "The statement that runs is stopped. Its caller gets an error; a transaction around it is usually rolled "
            "back by the program. A lease that runs nothing at this moment is left alone."
        ),
        gettext_lazy("Yes, cancel the statement"),
    ),
    "terminate": Verb(
        gettext_lazy("End a session"),
        gettext_lazy(
            "The connection is closed by the server and its transaction is rolled back. Its holder gets an error with "
            "the next statement. What it has written in this transaction is lost; the process itself goes on."
        ),
        gettext_lazy("Yes, end the session"),
        dangerous=True,
    ),
    "stack": Verb(
        gettext_lazy("Where is it now?"),
        gettext_lazy("Nothing is changed: the process tells in which calls the thread is."),
        gettext_lazy("Show the stack"),
        confirmed=False,
    ),
    "drain": Verb(
        gettext_lazy("Replace connections"),
        gettext_lazy(
            "Every connection of this process is replaced: free ones now, leased ones when their lease ends. Nothing "
            "is broken off."
        ),
        gettext_lazy("Yes, replace the connections"),
        page="processes",
    ),
}

OUTCOMES = {
    "done": (messages.SUCCESS, gettext_lazy("Done.")),
    "already over": (messages.INFO, gettext_lazy("It was already over; nothing was done.")),
    "refused (no permission)": (messages.ERROR, gettext_lazy("The database doesn't permit it; nothing was done.")),
    "unreachable": (messages.ERROR, gettext_lazy("The server did not answer in time; it may have been done.")),
    "no such process": (messages.WARNING, gettext_lazy("There is no such process any more; nothing was done.")),
    "failed": (messages.ERROR, gettext_lazy("It was not done.")),
    "unknown": (messages.ERROR, gettext_lazy("It is not known whether it was done: there was no answer in time.")),
}
