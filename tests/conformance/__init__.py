"""Django's own tests on the stock engine and on ours, compared one by one: ``-m tests.conformance``."""
