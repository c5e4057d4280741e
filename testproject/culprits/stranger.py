"""A script of somebody's that goes around the pool: it locks every report, and then it forgets to go on."""

from __future__ import annotations

import os
import signal

import psycopg


def main() -> None:
    dsn = os.environ["DBPOOL_CULPRITS_DSN"]
    with psycopg.connect(dsn, application_name="nightly-export") as connection:  # noqa: DBP101  # the culprit
        connection.execute("SELECT id, currency FROM reports_report FOR UPDATE").fetchall()
        print("exporting", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
