"""What came of an attempt to have a process do something, in words for whoever is at it at three in the morning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..core.targets import Outcome
from ..core.words import one_line

DONE = Outcome.DONE.value
OVER = Outcome.OVER.value
REFUSED = Outcome.REFUSED.value
UNREACHABLE = Outcome.UNREACHABLE.value
GONE = "no such process"
FAILED = "failed"
UNKNOWN = "unknown"

OUTCOMES = (DONE, OVER, REFUSED, UNREACHABLE, GONE, FAILED, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Acted:
    """What came of it."""

    outcome: str
    """
    - ``done``
    - ``already over``: the lease, or what was to be stopped in it, has ended; nothing was done
    - ``refused (no permission)``: the role may not signal that session; nothing was done
    - ``unreachable``: the process could not reach the database server, or got no answer from it
    - ``no such process``: none of that instance has said anything lately; nothing was done
    - ``failed``: the process was reached and could not do it, or nobody could be asked
    - ``unknown``: it did not answer in time, and may have done it
    """
    text: str
    """Sentences: what was done or why not, which way was used, and why others could not be."""
    seconds: float
    way: str = ""
    """``own process``, ``socket`` or ``signed command``: who has answered; empty where nobody has."""
    result: Any = None
    """What the process has answered, JSON values: the calls of ``stack``, the numbers of ``drain``."""

    @property
    def done(self) -> bool:
        return self.outcome == DONE

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process said, or that it said nothing."""

    way: str
    outcome: str
    result: Any = None
    message: str = ""


def understood(way: str, verb: str, result: Any) -> Answer:
    """What a process has answered, that it has done what it was told. It may be of another version."""
    if not isinstance(result, Mapping):
        return Answer(way, FAILED, message="Its answer is not understood.")
    if "error" in result:
        return failed(way, result.get("error"), result.get("message"))
    outcome = DONE if verb == "drain" else result.get("outcome")
    known = outcome if outcome in OUTCOMES else FAILED
    return Answer(way, known, dict(result), "" if known == outcome else "Its answer is not understood.")


def failed(way: str, error: object, message: object) -> Answer:
    told = f"{error}: {message}" if message else str(error)
    return Answer(way, FAILED, message=f"It says: {one_line(told).rstrip('.')}.")


_WORDS = {
    ("cancel", DONE): "The statement was cancelled.",
    ("cancel", OVER): "Nothing was done: that lease is over, or executes no statement at this moment.",
    ("terminate", DONE): "The session was ended and its transaction rolled back.",
    ("stack", DONE): "These are the calls that its thread is in.",
    ("drain", DONE): "Its connections are replaced: free ones now, leased ones when their lease ends.",
}
_OF_ALL = {
    OVER: "Nothing was done: that lease is over.",
    REFUSED: "Nothing was done: the database role may not signal that session.",
    UNREACHABLE: "The database server did not answer the process in time; it may have been done.",
    GONE: "Nothing was done: no process of that instance is at work, as far as the fleet knows.",
    FAILED: "It was not done.",
    UNKNOWN: "It is not known whether it was done: there was no answer in time. It will not be begun any more.",
}


def words_for(verb: str, answer: Answer) -> str:
    """One or two sentences."""
    if verb == "drain" and answer.outcome == DONE and not answer.result.get("drained"):
        return "It has no such connections."
    words = _WORDS.get((verb, answer.outcome)) or _OF_ALL[answer.outcome]
    return f"{words} {answer.message}".strip()
