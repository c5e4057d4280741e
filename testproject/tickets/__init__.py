"""A ticket shop: a repository that reads, a command handler that writes, and maintenance in raw SQL."""
