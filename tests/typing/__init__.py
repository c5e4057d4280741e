"""User code for type checkers, which `mypy` checks as strictly as the package. tests/unit/test_typing.py runs it."""
