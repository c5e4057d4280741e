"""Pools of physical connections. The only place that imports psycopg_pool."""
