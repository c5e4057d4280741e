"""The endpoints over HTTP; ``django_dbpool.urls`` says where. Everything that they tell comes from ``reports`` and ``health``."""

from .endpoint import view_of
from .endpoints import ENDPOINTS
from .probes import live, ready
from .status import status

__all__ = ["ENDPOINTS", "live", "ready", "status", "view_of"]
