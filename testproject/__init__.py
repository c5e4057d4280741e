"""The runnable project: demo, incidents and the throw-away PostgreSQL that the tests use, too."""
