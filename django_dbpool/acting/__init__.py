"""Telling one process of the fleet what to do, whichever way it can be reached, and knowing what came of it."""

from .acted import OUTCOMES, Acted
from .service import ACTIONS, act

__all__ = ["ACTIONS", "OUTCOMES", "Acted", "act"]
