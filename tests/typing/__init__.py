"""
User code for type checkers: the public names as an application uses them, with the types that it may count on.

`mypy` checks it as strictly as the package, and tests/unit/test_typing.py runs it. What has to be refused is at the end
of each file: an ignore comment that nothing needs is an error too.
"""
