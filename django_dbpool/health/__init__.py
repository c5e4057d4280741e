"""
Is this process alive, can it serve, and how do its databases stand? Answers within a second, whatever state database
and pools are in; no HTTP. Import the names from here.

``live`` asks nobody. ``ready`` asks each server at most once a second, on a connection outside of pool and reserve, and
reads the rest from memory; so do ``connectivity`` and, without asking anybody, ``saturation`` and ``circuit``.
"""

from .connectivity import Connectivity, aconnectivity, connectivity
from .live import Live, live
from .pools import Circuit, Saturation, circuit, saturation
from .readiness import DatabaseReady, Ready, aready, ready

__all__ = [
    "Circuit",
    "Connectivity",
    "DatabaseReady",
    "Live",
    "Ready",
    "Saturation",
    "aconnectivity",
    "aready",
    "circuit",
    "connectivity",
    "live",
    "ready",
    "saturation",
]
