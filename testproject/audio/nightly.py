"""
The clean-up for cron:

    15 3 * * *  python -m testproject.audio.nightly 0 1

Shelves side by side, each in a thread. What is killed in the middle, the same call goes on with, on the same day.
"""

from __future__ import annotations

import sys

import django


def main(shelves: list[int]) -> None:
    django.setup()

    from django_dbpool.threads import ThreadPoolExecutor
    from testproject.audio import cleaning

    with ThreadPoolExecutor(len(shelves)) as executor:
        for shelf, result in zip(shelves, executor.map(cleaning.clean_up, shelves), strict=True):
            print(f"shelf {shelf}: {result.done} removed, {result.reason}")


if __name__ == "__main__":
    main([int(shelf) for shelf in sys.argv[1:]])
