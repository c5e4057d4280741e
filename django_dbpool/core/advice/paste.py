"""Advice as lines for the settings file."""

from __future__ import annotations

from collections.abc import Sequence

from .advise import Report
from .item import Advice

WIDTH = 100


def paste(report: Report, target: str, *, present: bool) -> str:
    """
    Args:
        target: the expression that the settings of this pool are assigned to: ``DATABASES["default"]["POOL"]``.
        present: there is a dictionary already, whose other keys are kept.

    Returns:
        Python, or "" where nothing has to change.
    """
    items = [item for item in report.advice if item.kind == "change"]
    if not items:
        return ""
    lines = [f"{target} = {{", *([f"    **{target},"] if present else []), *_lines(items), "}"]
    return "\n".join(lines) + "\n"


def _lines(items: Sequence[Advice]) -> list[str]:
    return [f'    "{item.setting}": {item.proposed!r},  # {_was(item)}{item.confidence}' for item in items]


def _was(item: Advice) -> str:
    return f"was {item.current!r}; "
