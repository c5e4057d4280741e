"""What incidents, demo and tests share: a real web server, a load, and an observer on the database's side."""
