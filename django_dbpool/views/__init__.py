"""The endpoints; ``django_dbpool.urls`` says where. All that they tell comes from ``reports`` and ``health``."""

from .endpoint import view_of
from .endpoints import ENDPOINTS
from .probes import live, ready
from .status import status

__all__ = ["ENDPOINTS", "live", "ready", "status", "view_of"]
