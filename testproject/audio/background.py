"""The clean-up as a task of Django's own (6.0 and later), in whichever backend TASKS names."""

from __future__ import annotations

from django.tasks import task

from testproject.audio import cleaning


@task
def clean_up(shelf: int) -> int:
    """Returns how many recordings were removed."""
    return cleaning.clean_up(shelf).done
