PYTHON_ENV := .venv
BIN := $(PYTHON_ENV)/bin
export ONCE
# Most tests wait, so two processes share them. A file's tests stay together: they share servers.
JOBS ?= 2
# A process that is lost ends the run: after its replacement the others can wait for ever.
# https://github.com/pytest-dev/pytest-xdist/issues/1378
TOGETHER := -n $(JOBS) --dist loadfile --max-worker-restart 0

.DEFAULT_GOAL := help
# One after the other, as they measure: `make -j` doesn't change that.
.NOTPARALLEL:
.PHONY: help demo test test-ci tests-together tests-alone tests-django check bench soak django-suite bootstrap screenshots

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

bootstrap: ## make .venv and install the tools (every target does so by itself)
	@.ci/bootstrap

demo: bootstrap ## run the site under load on both engines, then keep it up; ONCE=1 ends after the table
	$(BIN)/python -m testproject.demo

test: bootstrap ## the tests of a bare machine, with coverage
	$(BIN)/python -m pytest $(TOGETHER) -m "not ci and not soak and not bench" --cov --cov-report=term $(ARGS)

test-ci: tests-together tests-alone tests-django ## the tests that take minutes or need more, then Django's own suites

tests-together: bootstrap
	$(BIN)/python -m pytest $(TOGETHER) -m "ci and not alone" $(ARGS)

tests-alone: bootstrap
	$(BIN)/python -m pytest -m "ci and alone" $(ARGS)

tests-django: bootstrap
	$(BIN)/python -m tests.conformance --django 5.2,6.0,6.1 --mode transaction,session
	$(BIN)/python -m tests.conformance --gis --django 5.2,6.0,6.1 --mode transaction,session

check: bootstrap ## style, types, architecture, contents of the wheel
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/check_wheel.py

bench: bootstrap ## paired measurements against other engines; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks $(ARGS)

screenshots: bootstrap ## the pictures of docs/dashboard.md, in a browser that the system has
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

soak: bootstrap ## the long runs
	$(BIN)/python -m pytest -m soak --timeout 1800 -o faulthandler_timeout=2400 $(ARGS)

django-suite: bootstrap ## Django's own suite on stock engine and ours; SUITE_ARGS="--all"
	$(BIN)/python -m tests.conformance $(SUITE_ARGS)
