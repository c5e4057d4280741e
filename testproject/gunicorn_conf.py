"""gunicorn for one process of many threads; sockets, threads and log level come from the command line."""

from django_dbpool.contrib.gunicorn import child_exit, post_worker_init, worker_exit

__all__ = ["child_exit", "post_worker_init", "worker_exit"]

worker_class = "gthread"
workers = 1
keepalive = 30
graceful_timeout = 15
# Here and not on the command line: in a file, a release of gunicorn skips the names that it does not know.
control_socket_disable = True
