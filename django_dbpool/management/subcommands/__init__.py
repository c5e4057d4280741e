"""
What follows ``manage.py dbpool``: one module for each, named as the word on the command line.

A module has a class ``Subcommand`` that derives from ``django_dbpool.management.subcommand.Subcommand``.
"""
