"""
django_dbpool: PostgreSQL connections lent for a transaction, not for a request.

Reading order: ``core`` (standard library only: settings, gate, ledger), ``pool`` (psycopg_pool),
``backends`` (which methods of Django's database wrapper are overridden), then the edges beside this file.
``setup.cfg`` holds the same map as contracts. Importing this package runs nothing.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
