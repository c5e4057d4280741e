"""A site under load in which something is planted that holds connections, for a reader to find and to end."""
