"""The table of signed commands, as those who read and write it know it."""

TABLE = "django_dbpool_command"

LONGEST_ARGUMENTS = 2000
LONGEST_RESULT = 4000
"""Characters."""
