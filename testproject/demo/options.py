"""What a run of the demo is made of."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    threads: int
    connections: int
    wait: float
    timeout: float
    seconds: float
    port: int
    once: bool

    @property
    def pool(self) -> dict[str, float]:
        """The same for both pools."""
        return {"min_size": 1, "max_size": self.connections, "timeout": self.timeout}


def parse(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m testproject.demo",
        description="Runs the same load on Django's own pool and on django_dbpool, then keeps a site up.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=64, help="threads of the site, and clients of the load")
    parser.add_argument("--connections", type=int, default=8, help="max_size of both pools")
    parser.add_argument("--wait", type=float, default=0.2, help="seconds between a request's two queries")
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds that both pools let a request wait")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run")
    parser.add_argument("--port", type=int, default=8000, help="of the site that stays up, if it is free")
    once = os.environ.get("ONCE", "") not in {"", "0"}
    parser.add_argument("--once", action="store_true", default=once, help="end after the table, as ONCE=1 does")
    return Options(**vars(parser.parse_args(arguments)))
