"""gunicorn for one process of many threads; sockets, threads and log level come from the command line."""

worker_class = "gthread"
workers = 1
keepalive = 30
graceful_timeout = 15
# A settings file, since gunicorn skips names here that a release does not know, but refuses them on its command line.
control_socket_disable = True
