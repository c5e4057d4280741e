"""
Which settings fit what was measured, and why. ``facts`` what is known, ``queueing`` how many connections a load needs,
``sizes`` and ``habits`` what follows, ``paste`` settings as Python.
"""

from .advise import Report, advise
from .facts import Facts, Measured, Room, Settings, spread
from .item import Advice
from .paste import paste

__all__ = ["Advice", "Facts", "Measured", "Report", "Room", "Settings", "advise", "paste", "spread"]
