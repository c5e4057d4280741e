"""The ideas of the pool, on the standard library alone: no Django, no psycopg."""
