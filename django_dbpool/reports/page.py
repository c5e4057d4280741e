"""Long lists in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..core.words import one_line

PER_PAGE = 100

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list. One that there is none of is the nearest: a list gets shorter while somebody leafs in it."""

    items: tuple[T, ...]
    number: int
    """The first is 1."""
    pages: int
    """At least 1."""
    total: int
    """Items on all pages."""
    per_page: int = PER_PAGE

    @property
    def has_previous(self) -> bool:
        return self.number > 1

    @property
    def has_next(self) -> bool:
        return self.number < self.pages

    @property
    def first(self) -> int:
        """Number of its first item among all, from 1; 0 where there is none."""
        return (self.number - 1) * self.per_page + 1 if self.items else 0

    @property
    def last(self) -> int:
        """Number of its last item."""
        return (self.number - 1) * self.per_page + len(self.items)

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {
            "items": [item.to_json() for item in self.items],  # type: ignore[attr-defined]
            "number": self.number,
            "pages": self.pages,
            "total": self.total,
            "per_page": self.per_page,
        }


def page_of(found: Sequence[S], number: int, make: Callable[[S], T], per_page: int = PER_PAGE) -> Page[T]:
    """
    Args:
        found: everything, in order.
        make: called for what is on the page only.
    """
    pages = max(1, -(-len(found) // per_page))
    number = min(max(1, number), pages)
    start = (number - 1) * per_page
    return Page(tuple(make(each) for each in found[start : start + per_page]), number, pages, len(found), per_page)


def words_of(q: str) -> tuple[str, ...]:
    """What is searched for: each word has to be found somewhere. Long input is cut, nobody types it."""
    return tuple(one_line(q, 200).casefold().split())


def matches(words: Iterable[str], *texts: object) -> bool:
    """Whether every word is in one of the texts."""
    where = "\n".join(str(text) for text in texts if text is not None).casefold()
    return all(word in where for word in words)
