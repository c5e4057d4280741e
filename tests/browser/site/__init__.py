"""A small shop: what its web processes and its Celery worker do is what the pages of the pools show."""
